"""Runs seqzoo on Cloud TPU slices: makes them, brings the code, starts and restarts a job, deletes.

`python -m tpu --help` lists the commands, `tpu/README.md` is the guide. Only the standard library,
and the tools that Google gives (`gcloud`, `kubectl`) or a cluster has (`sbatch`), do the work; none
of their credentials is read or written here.
"""
