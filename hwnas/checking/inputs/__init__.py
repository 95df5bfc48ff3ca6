"""What a model is asked during its check: sizes of open dimensions, samples of data, feeds."""
