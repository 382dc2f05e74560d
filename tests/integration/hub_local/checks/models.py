"""diffusers, peft and transformers: pushing, and loading by tag."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import PyTorchModelHubMixin

from tests.integration.hub_local.checks.check import Checks
from tests.integration.hub_local.world import TOKENS, World

CHECKS = Checks()
TOKEN = TOKENS["maker"]


@contextmanager
def logged_in() -> Iterator[None]:
    """The maker's token in the environment, as after `hf auth login`."""
    os.environ["HF_TOKEN"] = str(TOKEN)
    try:
        yield
    finally:
        del os.environ["HF_TOKEN"]


def draw(pipeline: Any) -> Any:
    """A picture of the emoji world as a tensor, the same each time."""
    import torch

    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        "a picture of a pistol on the grass",
        num_inference_steps=2,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).images


def write_lora(world: World) -> Any:
    """Save a random LoRA of the emoji world's UNet, with an alpha that is not its rank; the picture that it draws."""
    import torch
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    from dataset_builder.models import load_pipeline

    pipeline = load_pipeline("emoji-world")
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["to_q", "to_v"], init_lora_weights=False)
    pipeline.unet.add_adapter(config)
    StableDiffusionPipeline.save_lora_weights(
        world.folder / "lora",
        unet_lora_layers=get_peft_model_state_dict(pipeline.unet),
        unet_lora_adapter_metadata=config.to_dict(),
    )
    return draw(pipeline)


@CHECKS.add
def a_lora_loads_by_tag_without_a_file_name(world: World) -> None:
    from dataset_builder.models import load_pipeline

    drawn, name = write_lora(world), world.make("model", private=True)
    world.api().upload_folder(repo_id=name, folder_path=world.folder / "lora")
    world.api().create_tag(name, tag="v1.0.0")
    weights = world.folder / "lora" / "pytorch_lora_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64] + bytes(64))
    world.api().upload_file(path_or_fileobj=weights, path_in_repo=weights.name, repo_id=name)
    pipeline = load_pipeline("emoji-world")
    before = draw(pipeline)
    with logged_in():
        pipeline.load_lora_weights(name, revision="v1.0.0")
    after = draw(pipeline)
    assert (after - before).abs().max() > 0 and (after - drawn).abs().max() < 1e-5


@CHECKS.add_client_bug(
    cause="diffusers 0.42 lists a repository's files by model_info(name): the token it was given is not passed on",
    error="_best_guess_weight_name",
)
def a_private_lora_loads_by_the_token_it_is_given(world: World) -> None:
    from dataset_builder.models import load_pipeline

    write_lora(world)
    name = world.make("model", private=True)
    world.api().upload_folder(repo_id=name, folder_path=world.folder / "lora")
    load_pipeline("emoji-world").load_lora_weights(name, token=TOKEN)


@CHECKS.add
def a_private_lora_loads_by_token_and_file_name(world: World) -> None:
    from dataset_builder.models import load_pipeline

    drawn, name = write_lora(world), world.make("model", private=True)
    world.api().upload_folder(repo_id=name, folder_path=world.folder / "lora")
    pipeline = load_pipeline("emoji-world")
    pipeline.load_lora_weights(name, weight_name="pytorch_lora_weights.safetensors", token=TOKEN)
    assert (draw(pipeline) - drawn).abs().max() < 1e-5


@CHECKS.add
def a_pipeline_is_pushed_and_loaded(world: World) -> None:
    from diffusers import DiffusionPipeline

    from dataset_builder.models import load_pipeline

    pipeline, name = load_pipeline("emoji-world"), world.name()
    pipeline.push_to_hub(name, token=TOKEN, private=True)
    world.api().create_tag(name, tag="v1.0.0")
    back = DiffusionPipeline.from_pretrained(name, revision="v1.0.0", token=TOKEN)
    assert (draw(back) - draw(pipeline)).abs().max() < 1e-5


@CHECKS.add
def a_pipelines_part_is_pushed_into_a_pull_request(world: World) -> None:
    from diffusers import UNet2DConditionModel

    from dataset_builder.models import load_pipeline

    unet, name = load_pipeline("emoji-world").unet, world.make("model")
    unet.push_to_hub(name, token=TOKENS["guest"], create_pr=True)
    (proposal,) = world.api().get_repo_discussions(name)
    back = UNet2DConditionModel.from_pretrained(name, revision=proposal.git_reference)
    assert all((one == two).all() for one, two in zip(unet.parameters(), back.parameters(), strict=True))


@CHECKS.add
def a_peft_model_is_pushed_and_loaded(world: World) -> None:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    def base() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))

    model = get_peft_model(base(), LoraConfig(r=2, target_modules=["0", "2"], init_lora_weights=False))
    name = world.name()
    model.push_to_hub(name, token=TOKEN)
    world.api().create_tag(name, tag="v1.0.0")
    back = PeftModel.from_pretrained(base(), name, revision="v1.0.0", token=TOKEN)
    x = torch.ones(1, 8)
    assert torch.equal(model.eval()(x), back.eval()(x)) and not torch.equal(base()(x), back(x))


@CHECKS.add
def a_transformers_model_is_pushed_and_loaded(world: World) -> None:
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model, name = BertModel(BertConfig(vocab_size=9, **sizes)), world.name()
    world.path("vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "pill", "tree"]))
    tokenizer = BertTokenizer(str(world.path("vocab.txt")))
    model.push_to_hub(name, token=TOKEN, private=True)
    tokenizer.push_to_hub(name, token=TOKEN)
    world.api().create_tag(name, tag="v1.0.0")
    back = AutoModel.from_pretrained(name, revision="v1.0.0", token=TOKEN)
    ids = torch.tensor([[2, 5, 6, 3]])
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).last_hidden_state, back.eval()(ids).last_hidden_state)
    assert AutoConfig.from_pretrained(name, token=TOKEN).hidden_size == 16
    assert AutoTokenizer.from_pretrained(name, token=TOKEN).vocab_size == tokenizer.vocab_size


@CHECKS.add
def a_mixed_in_model_is_pushed_and_loaded(world: World) -> None:
    import torch

    class Model(torch.nn.Module, PyTorchModelHubMixin):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(width, width)

    model = Model(width=5)
    model.push_to_hub(world.name(), token=TOKEN)
    back = Model.from_pretrained(world.name(), token=TOKEN)
    assert torch.equal(model.layer.weight, back.layer.weight)
