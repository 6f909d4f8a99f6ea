"""Texts on which every exported tokenizer is compared with its reference library."""

SAMPLE = (
    "",
    " ",
    "Hello, world!",
    "  two  spaces,\ttabs\t\tand\r\nlines\n\n\n  end  ",
    "The capital of France is Paris. It's what we'll say, and they'd agree; I'VE seen it.",
    "0 7 42 365 1024 65536 3.14159 1e-9 0xDEADBEEF 1,234,567 ½ Ⅷ ٣٤٥",
    "def f(x: int) -> str:\n    return f\"{x!r:>10}\"  # comment\n\n\tif (a&&b||!c) {--i;}",
    "<html><body class='a'>&nbsp;</body></html> https://example.org/a?b=c&d=%20 a@b.org",
    "Zażółć gęślą jaźń. Ångström, naïve café, Straße, œuvre, ĳ, ﬁ, ſ",
    "cafe\u0301 n\u0303 a\u0308\u0323 (combining marks), \u200bzero\u200dwidth\u00a0space\u3000",
    "Съешь же ещё этих мягких французских булок. Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "敏捷的棕色狐狸跳过了懒狗。いろはにほへと ちりぬるを、カタカナ。키스의 고유조건은",
    "צלם ולא אדם. نص حكيم له سر قاطع. ऋषियों को सताने वाले। เป็นมนุษย์สุดประเสริฐ",
    "ქართული Հայերեն አማርኛ ភាសាខ្មែរ မြန်မာ ᏣᎳᎩ 𐍈𐌰𐌹 𝔘𝔫𝔦 𒀀",
    "😀👍🏽👩‍👩‍👧‍👦🏳️‍🌈🇫🇷❤️ ☃ ∑∫√≠ → ⟨x|y⟩ €£¥ “quoted” ‘single’ — … •",
    "\u0000\u0001\u001f\u007f\u0085\u2028\u2029\ufeff\ufffd\U0010ffff",
    "\u2581already\u2581marked \u2581 and <0x41> <unk> [INST]<<SYS>>",
    "<s>a</s> <|endoftext|>b<|im_start|>user\nc<|im_end|> <|begin_of_text|> <|eot_id|>\n",
    "a" * 64 + " " * 33 + "é" * 17 + "\n" * 9 + "=" * 40 + "-" * 7,
    "supercalifragilisticexpialidocious Donaudampfschifffahrtsgesellschaftskapitän",
)
