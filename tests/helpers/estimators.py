"""Settings of estimators whose fit takes seconds."""

TINY = (
    "budget={ms=1e6}",
    "latency.measure_seconds=6",
    "search.candidates=1",
    "search.max_measured=1",
    "train.epochs=4",
    "check.measure_seconds=6",
    "check.max_session_seconds=100",
)
IMAGES = (*TINY, "space={name='nasbench201', cells=1, channels=4}")
SEQUENCES = (*TINY, "space={name='sequence', layers=2, channels=8, blocks=['conv1d_3']}")
ROWS = (*TINY, "space.layers=2", "space.channels=8")
