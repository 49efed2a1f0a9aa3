"""Weights from timm and from Hugging Face: the same features as the networks that they come from, and what does not fit."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from test_vit import KINDS, MODEL, close, images, lively

from dinov2lab.model.names import from_huggingface, to_huggingface
from dinov2lab.model.vit import Backbone, Tokens, positions_at
from dinov2lab.model.weights import digest, fitting, load_backbone, public
from dinov2lab.spec.model import HuggingFaceWeights, ModelSpec, TimmWeights
from dinov2lab.spec.run import RunSpec, ViewsSpec


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.1, generator=generator)
    return network.eval()


def timm_folder(folder: Path, model: ModelSpec, px: int = 32) -> torch.nn.Module:
    """timm's own DINOv2 network, made small, with random weights, in a folder as timm writes and reads them."""
    name = f"vit_{'giant' if model.ffn == 'swiglu' else 'small'}_patch14{'_reg4' * (model.registers > 0)}_dinov2"
    size = {"img_size": px, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 2, "reg_tokens": model.registers}
    if model.ffn == "swiglu":
        size["mlp_ratio"] = 5.51
    network = randomised(timm.create_model(name, **size))
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    config = {"architecture": name, "num_classes": 0, "model_args": size, "pretrained_cfg": {"num_classes": 0}}
    (folder / "config.json").write_text(json.dumps(config))
    return network


def huggingface_folder(folder: Path, model: ModelSpec, px: int = 32, **options: object) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers", reason="the extra `test` brings it")
    size = {
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": px,
        "patch_size": 8,
        "use_swiglu_ffn": model.ffn == "swiglu",
    }
    if model.registers:
        config = transformers.Dinov2WithRegistersConfig(**size, num_register_tokens=model.registers)
        network = randomised(transformers.Dinov2WithRegistersModel(config))
    else:
        network = randomised(transformers.Dinov2Model(transformers.Dinov2Config(**size)))
    network.save_pretrained(folder, **options)
    return network


def loaded(weights: TimmWeights | HuggingFaceWeights, model: ModelSpec, root: Path, px: int = 32) -> Backbone:
    backbone = Backbone(model, px)
    backbone.load_state_dict(public(weights, backbone, root))
    return backbone


@pytest.mark.parametrize("model", KINDS)
def test_a_timm_network_has_the_same_features_here(model, tmp_path):
    theirs = timm_folder(tmp_path / "net", model)
    net = loaded(TimmWeights(kind="timm", name=f"local-dir:{tmp_path / 'net'}"), model, tmp_path)
    tokens = theirs.forward_features(images(3))
    close(net([images(3)])[0], Tokens(tokens[:, 0], tokens[:, 1 + model.registers :]))
    assert not net.mask_token.any()


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "100KB"}])
@pytest.mark.parametrize("model", KINDS)
def test_a_hugging_face_network_has_the_same_features_here(model, options, tmp_path):
    theirs = huggingface_folder(tmp_path / "net", model, **options)
    assert (tmp_path / "net/model.safetensors").exists() == (not options)
    net = loaded(HuggingFaceWeights(kind="huggingface", folder="net"), model, tmp_path)
    masks = torch.zeros(3, 16, dtype=torch.bool)
    masks[0, [2, 5]] = masks[2, 9] = True
    tokens = theirs(images(3), bool_masked_pos=masks).last_hidden_state
    close(net([images(3)], masks)[0], Tokens(tokens[:, 0], tokens[:, 1 + model.registers :]))


@pytest.mark.parametrize("model", KINDS)
def test_names_go_to_hugging_face_and_back(model):
    state = lively(model=model).state_dict()
    back = from_huggingface(to_huggingface(state, gated=model.ffn == "swiglu"))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize("model", KINDS)
def test_positions_of_another_size_are_resampled(model, tmp_path):
    theirs = timm_folder(tmp_path / "net", model, px=48)
    net = loaded(TimmWeights(kind="timm", name=f"local-dir:{tmp_path / 'net'}"), model, tmp_path)
    expected = positions_at(theirs.pos_embed, (4, 4), model.registers)
    assert torch.equal(net.vit.pos_embed, expected)
    assert expected.shape[1] == 16 + (not model.registers)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (MODEL.model_copy(update={"registers": 3}), ["missing: vit.reg_token"]),
        (MODEL.model_copy(update={"ffn": "swiglu"}), ["vit.blocks.0.mlp.fc1.bias 256, not 352", "and 9 more"]),
        (MODEL.model_copy(update={"patch": 16}), ["vit.patch_embed.proj.weight 64 x 3 x 8 x 8, not 64 x 3 x 16 x 16"]),
        (ModelSpec(size="nano", patch=8), ["missing: vit.blocks.4.", "and 25 more", "of another shape"]),
    ],
)
def test_what_does_not_fit_is_named(asked, words, tmp_path):
    timm_folder(tmp_path / "net", MODEL)
    with pytest.raises(ValueError) as caught:
        loaded(TimmWeights(kind="timm", name=f"local-dir:{tmp_path / 'net'}"), asked, tmp_path)
    assert "\n" not in str(caught.value)
    for each in words:
        assert each in str(caught.value)


def test_a_key_too_many_is_named():
    state = lively().state_dict()
    with pytest.raises(ValueError, match=r"here: not the weights of this network: too many: classifier\.weight"):
        fitting({**state, "classifier.weight": torch.zeros(2)}, lively(), "here")


def test_a_qkv_that_lacks_a_part_is_missing(tmp_path):
    state = to_huggingface(lively().state_dict(), gated=False)
    del state["encoder.layer.1.attention.attention.key.bias"]
    (tmp_path / "net").mkdir()
    save_file(state, tmp_path / "net/model.safetensors")
    with pytest.raises(ValueError, match=r"missing: vit\.blocks\.1\.attn\.qkv\.bias"):
        loaded(HuggingFaceWeights(kind="huggingface", folder="net"), MODEL, tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"no tensors", b"\xff" * 100])
def test_a_folder_without_readable_weights_is_named(content, tmp_path):
    (tmp_path / "net").mkdir()
    if content is not None:
        (tmp_path / "net/model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"net: (holds no|damaged) weights") as caught:
        loaded(HuggingFaceWeights(kind="huggingface", folder="net"), MODEL, tmp_path)
    assert "\n" not in str(caught.value)


def test_an_unknown_timm_name_has_a_suggestion(tmp_path):
    with pytest.raises(ValueError, match=r"did you mean vit_small_patch14_dinov2\.lvd142m\?"):
        loaded(TimmWeights(kind="timm", name="vit_smal_patch14_dinov2.lvd142m"), MODEL, tmp_path)


def test_a_backbone_that_a_run_left(tmp_path):
    net = lively()
    torch.save(net.state_dict(), tmp_path / "backbone.pt")
    found = load_backbone(RunSpec(model=MODEL, views=ViewsSpec(global_px=32, local_px=16)), tmp_path / "backbone.pt")
    assert digest(found.state_dict()) == digest(net.state_dict()) != digest(lively(1).state_dict())


def test_released_networks_have_the_names_that_we_expect():
    """Without their values: our backbone takes all their keys and no other."""
    for size in ("small", "giant"):
        for registers in (0, 4):
            name = f"vit_{size}_patch14{'_reg4' * (registers > 0)}_dinov2"
            model = ModelSpec(size=size, patch=14, registers=registers, ffn="swiglu" if size == "giant" else "mlp")
            with torch.device("meta"):
                theirs, ours = timm.create_model(name, num_classes=0), Backbone(model, 518)
            state = {f"vit.{key}": value for key, value in theirs.state_dict().items()}
            assert fitting({"mask_token": ours.mask_token, **state}, ours, name)
