"""One file per kind of problem: its data, loss and evaluation."""
