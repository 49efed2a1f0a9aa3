"""dinov2lab: experiments around a DINOv2 training core."""

__version__ = "0.1.0"
