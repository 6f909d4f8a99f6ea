"""Refuse adapters (LoRA), which change a base model: this version does not merge them."""

from __future__ import annotations

import json
from pathlib import Path

CONFIG = "adapter_config.json"  # as peft names it
ADAPTER_REMEDY = (
    "adapters are not merged in this version: merge it first "
    "(peft: AutoPeftModelForCausalLM.from_pretrained(FOLDER).merge_and_unload().save_pretrained(OUT), and "
    "copy the tokenizer to OUT), then export OUT"
)


def refuse_adapter(folder: Path) -> None:
    """Raise ValueError where `folder` holds an adapter, alone or beside a base model.

    A base model beside it would be exported without what the adapter changes.
    """
    path = folder / CONFIG
    if not path.is_file():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # what it changes is not known then; that it is there is enough
        found = {}
    fields = found if isinstance(found, dict) else {}
    kind = fields.get("peft_type") or fields.get("fine_tune_type") or "adapter"
    base = fields.get("base_model_name_or_path") or fields.get("model")
    whole = (folder / "config.json").is_file()
    raise ValueError(
        f"{folder} holds an adapter ({CONFIG}: {kind}{f' of {base}' if base else ''}): {ADAPTER_REMEDY}"
        + (f"; or remove {CONFIG} to export the base model beside it as it is" if whole else "")
    )
