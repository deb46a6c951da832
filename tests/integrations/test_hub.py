"""A run that was saved for the Hub comes back the same."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from run_files import edit_config
from trifecta import RunConfig, RunFolder, get_method, train
from trifecta.integrations.hub import HubModel


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "run"
    images = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8)
    config = RunConfig(method=get_method("trifecta"), width=0.1, epochs=1, batch_size=12)
    train(config, data=(images, torch.arange(60) % 3), classes=["a", "b", "c"], out=folder)
    return folder


def test_what_was_saved_predicts_the_same(run: Path, tmp_path: Path) -> None:
    model = HubModel(str(run), device="cpu")
    model.save_pretrained(tmp_path / "saved")
    names = {file.name for file in (tmp_path / "saved").iterdir()}
    assert {"config.yaml", "model.safetensors", "result.json", "README.md"} <= names
    assert "config.json" not in names
    assert not any(name.endswith((".pt", ".pkl", ".bin", ".py")) for name in names)
    again = HubModel.from_pretrained(tmp_path / "saved", device="cpu")
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(again.scores(images), model.scores(images))
    assert again.predict(images) == model.predict(images)
    assert torch.equal(again.predict_proba(images), model.predict_proba(images))
    assert again.top_k(images, 2) == model.top_k(images, 2)
    assert torch.equal(again.embeddings(images, block=1), model.embeddings(images, block=1))
    assert again.classes == ("a", "b", "c")


def test_the_card_says_what_the_result_says(run: Path, tmp_path: Path) -> None:
    HubModel(run).save_pretrained(tmp_path / "saved")
    card = ModelCard.load(tmp_path / "saved" / "README.md")
    assert card.data.library_name == "trifecta"
    assert "| crosses a block | overlapping |" in card.text
    assert "| test accuracy |" in card.text
    assert f"| log loss | {RunFolder(run).read_result()['log_loss']:.3f} |" in card.text


def test_loading_is_strict(run: Path, tmp_path: Path) -> None:
    HubModel(run).save_pretrained(tmp_path / "saved")
    edit_config(tmp_path / "saved", "width: 0.1", "width: 0.2")
    with pytest.raises(ValueError, match="holds another network"):
        HubModel.from_pretrained(tmp_path / "saved")
