"""One page about one or several runs, in one file that needs nothing else."""
