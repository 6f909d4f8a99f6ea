"""Print pyproject.toml's pinned requirements: `requirements.py build[,test]`."""

import re
import sys
from pathlib import Path

text = (Path(__file__).parent.parent / "pyproject.toml").read_text()


def pins(name: str) -> list[str]:
    body = re.search(rf"^{name} = \[(.*?)\]", text, re.MULTILINE | re.DOTALL).group(1)
    return re.findall(r'"([^"]+)"', body)


wanted = ["dependencies", *sys.argv[1].split(",")]
print("\n".join(pin for name in wanted for pin in pins(name)))
