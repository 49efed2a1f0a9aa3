"""Whether the images that finished runs have read are still the same: by cheap fingerprints. Imports no torch."""

from collections.abc import Iterable

from dinov2lab.data.source import Roots, open_source
from dinov2lab.store.result import RunResult


def stale_sources(results: Iterable[RunResult], roots: Roots) -> list[str]:
    """A line for each URI whose images have changed, or cannot be opened any more, since one of `results` read them."""
    recorded: dict[str, set[str]] = {}
    for result in results:
        for uri, fingerprint in result.sources.items():
            recorded.setdefault(uri, set()).add(fingerprint)
    return [line for uri, fingerprints in sorted(recorded.items()) if (line := _staleness(uri, fingerprints, roots))]


def _staleness(uri: str, recorded: set[str], roots: Roots) -> str | None:
    try:
        if recorded == {open_source(uri, roots).fingerprint()}:
            return None
        return f"stale: {uri} has changed since these runs read it; --rerun computes them again"
    except ValueError as error:
        return f"{uri} cannot be opened any more: {str(error).splitlines()[0]}"
    except OSError as error:
        return f"{uri} cannot be opened any more: {error.filename or 'file system'}: {error.strerror or error}"


def come_since(results: Iterable[RunResult], roots: Roots) -> list[str]:
    """The URIs that some of `results` were not evaluated on, as nothing was there, and that something is at now."""
    skipped = {uri for result in results for uri in result.skipped}
    return [uri for uri in sorted(skipped) if _opens(uri, roots)]


def _opens(uri: str, roots: Roots) -> bool:
    try:
        open_source(uri, roots)
    except (ValueError, OSError):
        return False
    return True
