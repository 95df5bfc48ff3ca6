"""The folder of a run, its checkpoints, signals and progress."""
