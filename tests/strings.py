"""Texts for tokenizer tests: some 2,500, the same on every machine.

`STRINGS` mixes written samples of many scripts, code, white space, digits and control characters,
random characters of chosen Unicode blocks, and random joins of all these. `SPECIAL_STRINGS` puts
special tokens between them. Only characters assigned by Unicode 14 are used, since the regular
expression libraries of the references know different later versions.
"""

import random
import unicodedata

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "It's what we'll say, they'd agree; I'VE seen it, YOU'RE right, he'S ſaid it'ſ fine.",
    "Portez ce vieux whisky au juge blond qui fume, n'est-ce pas ?",
    "Falsches Üben von Xylophonmusik quält jeden größeren Zwerg.",
    "El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia. ¿Qué? ¡Sí!",
    "Zażółć gęślą jaźń. Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Pijamalı hasta yağız şoföre çabucak güvendi. İstanbul ılık.",
    "Do bạch kim rất quý nên sẽ dùng để lắp vô xương.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Ἐν ἀρχῇ ἦν ὁ λόγος.",
    "敏捷的棕色狐狸跳过了懒狗。我能吞下玻璃而不伤身体。",
    "いろはにほへと ちりぬるを。カタカナとひらがな、漢字㍿ﾊﾝｶｸ",
    "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다.",
    "דג סקרן שט בים מאוכזב ולפתע מצא לו חברה. שָׁלוֹם",
    "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر. ١٢٣٤٥",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण। १२३",
    "আমি কাঁচ খেতে পারি, তাতে আমার কোনো ক্ষতি হয় না।",
    "நான் கண்ணாடி சாப்பிடுவேன், அதனால் எனக்கு ஒரு கேடும் வராது.",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน ๑๒๓",
    "ကျွန်တော် မှန်စားနိုင်တယ်။ ខ្ញុំអាចញុំកញ្ចក់បាន។",
    "მინას ვჭამ და არა მტკივა. Կրնամ ապակի ուտել։ አማርኛ ᏣᎳᎩ",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙𝟚 𐍈𐌰𐌹 𒀀𒁀 𓀀 🄰 Ⅷ ⅷ ½ ¾ ² ₃ ①",
    "😀😃👍🏽👩‍👩‍👧‍👦🏳️‍🌈🇫🇷🇯🇵❤️🧑🏿‍🚀 1️⃣ ☃ ✂️ 🫠",
    "cafe\u0301 n\u0303 a\u0308\u0323 Z\u0351\u036b\u0343\u036a\u0302 o\u0338\u20dd \u0e01\u0e33",
    "def f(x: int = 3) -> str:\n    return f\"{x!r:>10}\"  # it's\n\n\nclass A(B):\n\tpass\n",
    "for (int i = 0; i < n; ++i) {\r\n\ta[i] += b[i] * 0x1F;\r\n}\r\n// end\r\n",
    "SELECT * FROM t WHERE a >= 10 AND b != 'x''y' -- note\n;",
    "<div class=\"a b\">&nbsp;&#x27;</div><!-- c --><br/>\n\n",
    '{"key": [1, 2.5e-10, null, true], "ключ": "\\u00e9\\n"}',
    "https://example.org/a/b?c=d&e=%20f#g user@example.org C:\\dir\\file.txt ~/x",
    "\\frac{a}{b} \\sum_{i=0}^{\\infty} x_i^2 \\le \\alpha $$ ∑∫√≠→⟨x|y⟩",
    "0 1 22 333 4444 55555 666666 7777777 1,234,567.89 -1 +2 3e8 12:34:56 2024-07-26",
    "€100 £20 ¥3000 ₹50 50% ±5° §7 ¶ © ® ™ … — – “quoted” ‘single’ «guillemets»",
    "snake_case camelCase PascalCase SCREAMING_CASE kebab-case x1y2z3 a1b22c333",
    "AAAAAAAAAAAAAAAAAAAAAAAA aaaaaaaaaaaaaaaaaaaaaaaaa hahahahahahaha !!!!!???? ======",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] <0x41> <unk> <0xFF> </w> ##ing",
    "\u2581marked \u2581\u2581 text\u2581 \u2581",
    "\u0000\u0001\u0008\u001b[31m\u001c\u001d\u001e\u001f\u007f\u0080\u0085\u009f",
    "\u00a0\u1680\u180e\u2000\u2003\u200a\u2028\u2029\u202f\u205f\u3000\ufeff x",
    "zero\u200bwidth\u200cjoiner\u200dmark\u200e\u200f\u202a\u2060 soft\u00adhyphen",
    "\ufffd\ufffe\uffff\U0001fffe\ue000\uf8ff\U000f0000\U0010ffff",
)

WHITE_SPACE = (
    " ", "  ", "   ", " " * 7, " " * 40, " " * 129, "\t", "\t\t\t", "\n", "\n\n", "\n" * 9,
    "\r\n", "\r\r\n\n", " \n", "\n ", " \n \n ", "\t \t", "\v\f", "\u00a0", "\u00a0 ", " \u3000",
    "\u2028\n", "\u0085 ", "   \n\t  \n    ", "\u200b",
)  # fmt: skip

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>", "<s>",
    "</s>", "<unk>", "<pad>", "<repo_name>", "<|tool|>", "<|start_header_id|>",
)  # fmt: skip

_BLOCKS = (
    (0x20, 0x7E), (0x00, 0x1F), (0x80, 0x17F), (0x180, 0x24F), (0x250, 0x2FF), (0x300, 0x36F),
    (0x370, 0x3FF), (0x400, 0x52F), (0x530, 0x58F), (0x590, 0x5FF), (0x600, 0x6FF),
    (0x900, 0x97F), (0x980, 0x9FF), (0xB80, 0xBFF), (0xE00, 0xE7F), (0x1000, 0x109F),
    (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1200, 0x137F), (0x1E00, 0x1FFF), (0x2000, 0x206F),
    (0x2070, 0x20CF), (0x2100, 0x218F), (0x2190, 0x22FF), (0x2460, 0x24FF), (0x2500, 0x27BF),
    (0x3000, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF),
    (0xFB00, 0xFDFF), (0xFE00, 0xFFEF), (0x10330, 0x1034F), (0x12000, 0x120FF),
    (0x1D400, 0x1D7FF), (0x1F300, 0x1F6FF), (0x1F900, 0x1F9FF), (0x20000, 0x200FF),
    (0xE0000, 0xE007F),
)  # fmt: skip


def _random_text(rng: random.Random, block: tuple[int, int], length: int) -> str:
    chars: list[str] = []
    while len(chars) < length:
        char = chr(rng.randint(*block))
        if unicodedata.category(char) not in ("Cn", "Cs"):
            chars.append(char)
        if rng.random() < 0.15:
            chars.append(" ")
    return "".join(chars)


def _words(rng: random.Random) -> str:
    sentence = rng.choice(SENTENCES)
    start = rng.randrange(len(sentence))
    return sentence[start : start + rng.randint(1, 30)]


def _join(rng: random.Random, choices: list) -> str:
    return "".join(rng.choice(choices)() for _ in range(rng.randint(1, 8)))


def _make() -> tuple[tuple[str, ...], tuple[str, ...]]:
    rng = random.Random(2)
    blanks = [blank + tail for blank in WHITE_SPACE for tail in ("", "x", "1", ".", "é", "中")]
    digits = [str(rng.randrange(10**n)) for n in range(1, 24) for _ in range(4)]
    blocks = [_random_text(rng, b, n) for b in _BLOCKS for n in (1, 2, 3, 5, 8, 13, 40)]
    parts = [
        lambda: _words(rng),
        lambda: _words(rng),
        lambda: rng.choice(WHITE_SPACE),
        lambda: rng.choice(digits),
        lambda: _random_text(rng, rng.choice(_BLOCKS), rng.randint(1, 6)),
    ]
    joins = [_join(rng, parts) for _ in range(1600)]
    special_parts = [*parts, lambda: rng.choice(SPECIAL_TOKENS), lambda: rng.choice(SPECIAL_TOKENS)]
    special = [_join(rng, special_parts) for _ in range(500)]
    plain = ["", *SENTENCES, *(s[:-1] for s in SENTENCES), *(" " + s for s in SENTENCES)]
    return tuple(dict.fromkeys([*plain, *blanks, *digits, *blocks, *joins])), tuple(special)


STRINGS, SPECIAL_STRINGS = _make()
