"""Whether the images that finished runs have read are still the same: by cheap fingerprints. Imports no torch."""

from collections.abc import Iterable

from dinov2lab.data.source import Roots, open_source
from dinov2lab.store.result import RunResult


def stale_sources(results: Iterable[RunResult], roots: Roots) -> list[str]:
    """The URIs whose images have changed, or cannot be read any more, since one of `results` read them."""
    recorded: dict[str, set[str]] = {}
    for result in results:
        for uri, fingerprint in result.sources.items():
            recorded.setdefault(uri, set()).add(fingerprint)
    return [uri for uri, fingerprints in sorted(recorded.items()) if fingerprints != {_fingerprint(uri, roots)}]


def _fingerprint(uri: str, roots: Roots) -> str | None:
    try:
        return open_source(uri, roots).fingerprint()
    except (ValueError, OSError):
        return None


def come_since(results: Iterable[RunResult], roots: Roots) -> list[str]:
    """The URIs that some of `results` were not evaluated on, as nothing was there, and that something is at now."""
    skipped = {uri for result in results for uri in result.skipped}
    return [uri for uri in sorted(skipped) if _fingerprint(uri, roots) is not None]
