"""Random augmentation of training samples, a whole batch at a time.

`settings` says which parts there are and what they suit; `images`, `scenes` (images with their
boxes or maps), `sequences` and `mixing` compute them. All random numbers are drawn on the CPU, so
every device sees the same augmentation.
"""

from hwnas.data.augmentation.settings import PARTS, Augmentation, SampleKind, sample_kind

__all__ = ["PARTS", "Augmentation", "SampleKind", "sample_kind"]
