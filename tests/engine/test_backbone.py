from __future__ import annotations

from pathlib import Path

import pytest

from pc_engine import load_model
from pc_engine.backbone import LARGEST_BATCH
from pc_engine.errors import UsageError
from pc_engine.networks import network_request


def test_batches_have_a_limit(tiny_directory: Path) -> None:
    model = load_model(tiny_directory)
    assert network_request(model, ("logits",), batch_size=LARGEST_BATCH).batch_size == LARGEST_BATCH
    with pytest.raises(UsageError, match=r"A batch of 100,000 images costs memory .* ask for at most 1,024"):
        network_request(model, ("logits",), batch_size=100_000)
