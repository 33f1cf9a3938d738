import json

import pytest
import torch

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    """A tiny open_clip model of random weights, named "tiny-clip", and the file of its weights."""
    import open_clip

    folder = tmp_path_factory.mktemp("open_clip")
    (folder / "tiny-clip.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder / "tiny-clip.json")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model("tiny-clip")
    torch.save(model.state_dict(), folder / "tiny-clip.pt")
    return "tiny-clip", str(folder / "tiny-clip.pt")


@pytest.fixture(scope="session")
def hugging_clip(tiny_clip, tmp_path_factory):
    """A `transformers.CLIPModel` of the sizes of "tiny-clip" with random weights, and its file."""
    from safetensors.torch import save_file
    from transformers import CLIPConfig, CLIPModel

    common = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2}
    common |= {"num_attention_heads": 2, "hidden_act": "gelu"}
    config = CLIPConfig(
        text_config={**common, "vocab_size": 49408, "max_position_embeddings": 12},
        vision_config={**common, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = CLIPModel(config).eval()
        for parameter in model.parameters():  # norms and biases begin as ones and zeros
            parameter.data += 0.02 * torch.randn_like(parameter)
    path = tmp_path_factory.mktemp("transformers") / "model.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return model, str(path)


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    """A file of torchvision's squeezenet1_1 with random weights."""
    from torchvision.models import squeezenet1_1

    path = tmp_path_factory.mktemp("torchvision") / "squeezenet.pth"
    with torch.random.fork_rng():
        torch.manual_seed(2)
        torch.save(squeezenet1_1(weights=None).state_dict(), path)
    return str(path)


@pytest.fixture(scope="session")
def ratings(tmp_path_factory):
    """Files of a linear head and of a chain of layers for embeddings of 16, by plain torch."""
    from torch import nn

    folder = tmp_path_factory.mktemp("ratings")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        linear = nn.Linear(16, 1)
        chain = nn.Sequential(
            *(nn.Linear(16, 1024), nn.Dropout(0.2)),
            *(nn.Linear(1024, 128), nn.Dropout(0.2)),
            *(nn.Linear(128, 64), nn.Dropout(0.1)),
            *(nn.Linear(64, 16), nn.Linear(16, 1)),
        )
    torch.save(linear.state_dict(), folder / "linear.pth")
    torch.save({f"layers.{k}": v for k, v in chain.state_dict().items()}, folder / "mlp.pth")
    return linear, chain.eval(), folder


@pytest.fixture(scope="session")
def small_blip(tmp_path_factory):
    """A small ImageReward put together of other libraries, its weights and its vocabulary."""
    import blip

    return blip.save(tmp_path_factory.mktemp("blip"))


@pytest.fixture
def scorer_url():
    """A local server that scores pictures."""
    from scorer import scored, server

    with server(scored) as (url, _):
        yield url


@pytest.fixture
def judge_url():
    """A local server that rates pictures as a vision-language model would."""
    from scorer import rated, server

    with server(rated) as (url, _):
        yield f"{url}/v1"
