"""The backbone: its size and its parts."""

from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field

from dinov2lab.spec.section import Count, Positive, Section, later

if TYPE_CHECKING:
    from dinov2lab.spec.run import RunSpec


class Architecture(NamedTuple):
    dim: int
    depth: int
    heads: int


ARCHITECTURES: dict[str, Architecture] = {
    "pico": Architecture(64, 4, 2),  # ours: learns in minutes on two cores
    "nano": Architecture(128, 6, 4),  # ours
    "tiny": Architecture(192, 12, 3),  # DeiT-Ti (arXiv 2012.12877, Table 1)
    "small": Architecture(384, 12, 6),  # DINOv2, Table 17, as are those that follow
    "base": Architecture(768, 12, 12),  # the table prints 18 blocks; released code and weights have 12
    "large": Architecture(1024, 24, 16),
    "giant": Architecture(1536, 40, 24),
}


class TimmWeights(Section):
    """Public weights of a backbone by timm's name, such as vit_small_patch14_dinov2.lvd142m, or `local-dir:FOLDER`."""

    kind: Literal["timm"]
    name: str


class HuggingFaceWeights(Section):
    """A folder of Dinov2Model or Dinov2WithRegistersModel, as safetensors, relative to --data-root."""

    kind: Literal["huggingface"]
    folder: str


class RunWeights(Section):
    """Student and teacher as another run ended, which is trained first where it is missing; the optimiser begins anew."""

    kind: Literal["run"]
    run: "RunSpec"
    heads: bool = True  # else they begin anew, as they must where they are of another shape


Weights = Annotated[TimmWeights | HuggingFaceWeights | RunWeights, Field(discriminator="kind")]


LinearInit = Literal["truncated_normal", "xavier"]


class ModelSpec(Section):
    size: Literal["pico", "nano", "tiny", "small", "base", "large", "giant"] = "small"
    patch: Count = 16
    layer_scale: Positive = 1e-5
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.3
    ffn: Literal["mlp", "swiglu"] = later(absent="mlp")
    registers: Annotated[int, Field(ge=0)] = later(absent=0)  # tokens without a patch (arXiv 2309.16588)
    linear_init: LinearInit = later(absent="truncated_normal")  # of heads too; see model/initial.py
    weights: Weights | None = later(absent=None)  # none: drawn at random

    @property
    def architecture(self) -> Architecture:
        return ARCHITECTURES[self.size]

    @property
    def hidden(self) -> int:
        """Width inside a block's feed-forward layer. SwiGLU's is two thirds, to a multiple of 8: as many weights."""
        wide = 4 * self.architecture.dim
        return (wide * 2 // 3 + 7) // 8 * 8 if self.ffn == "swiglu" else wide
