"""What every test runs under: eight simulated CPU devices, a compilation cache, and the data."""

import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent

# All of this is read when jax is imported, or when its backend starts; sub-processes inherit it.
# SEQZOO_TEST_PLATFORM=cuda or tpu runs the tests on an accelerator.
os.environ['JAX_PLATFORMS'] = os.environ.get('SEQZOO_TEST_PLATFORM', 'cpu')
_XLA_FLAGS = {
    '--xla_force_host_platform_device_count': '8',
    # Two pytest workers of eight devices each share two cores: a thread pool per matrix product
    # only makes them wait for each other.
    '--xla_cpu_multi_thread_eigen': 'false',
    # Tiny programs run once: optimising them costs a quarter of the suite and gains nothing.
    '--xla_backend_optimization_level': '0',
    # On a busy machine eight devices may take long to meet in a collective.
    '--xla_cpu_collective_call_terminate_timeout_seconds': '600',
}
_given = os.environ.get('XLA_FLAGS', '')
os.environ['XLA_FLAGS'] = ' '.join(
    [_given, *(f'{flag}={value}' for flag, value in _XLA_FLAGS.items() if flag not in _given)]
).strip()
for _variable in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'):
    os.environ.setdefault(_variable, '1')
# By default jax stores nothing that compiled in under a second: nearly all that the tests compile.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(ROOT / '.jax_cache'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
os.environ.setdefault('MPLBACKEND', 'Agg')
# Parity tests build their models from configurations; nothing may be fetched.
os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')

import importlib.util  # noqa: E402  (the environment comes first)

import hypothesis  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

# Grain's worker processes read absl flags, which nobody parses in a test.
flags.FLAGS.mark_as_parsed()

# The first example of a property compiles; no deadline can know that. Always the same examples, so
# that a test that passed here passes there; `thorough` looks for new ones.
hypothesis.settings.register_profile(
    'same',
    deadline=None,
    max_examples=30,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile('thorough', deadline=None, max_examples=500)
hypothesis.settings.load_profile(os.environ.get('SEQZOO_HYPOTHESIS', 'same'))


def pytest_configure(config: pytest.Config) -> None:
    """Refuses to begin where the parity tests must run and cannot, instead of skipping them."""
    if os.environ.get('SEQZOO_REQUIRE_PARITY') == '1':
        for package in ('torch', 'transformers'):
            if importlib.util.find_spec(package) is None:
                raise pytest.UsageError(
                    f'SEQZOO_REQUIRE_PARITY=1, but {package} is not installed: make install-parity'
                )


@pytest.fixture(scope='session')
def data_dir() -> pathlib.Path:
    """The folder with real data sets: SEQZOO_DATA_DIR, or shared/data beside the checkout.

    The test is skipped where there is none, and fails if SEQZOO_REQUIRE_DATA=1.
    """
    given = os.environ.get('SEQZOO_DATA_DIR')
    folder = pathlib.Path(given) if given else ROOT.parent / 'shared' / 'data'
    if not folder.is_dir():
        missing = f'no real data at {folder}; SEQZOO_DATA_DIR says where it is'
        if os.environ.get('SEQZOO_REQUIRE_DATA') == '1':
            pytest.fail(missing)
        pytest.skip(missing)
    return folder
