"""Keep the texts that `verify` and self-tests read: prompts and conversations.

A few hundred tokens of many kinds, written for this: what a damaged layer or table does shows in
some kinds of text before others.
"""

PROMPTS = (
    # Prose: facts, a story, an argument.
    "The river rises in the hills above the old mill, turns south past the railway bridge and "
    "reaches the sea some ninety kilometres further on. In dry summers it shrinks to a chain of "
    "pools; in March, when the snow melts, it has twice carried the bridge away. Most people in "
    "the valley can still say where the water stood in the year that they were born.",
    '"You kept the letter?" she asked. He did not answer at once. Outside, somebody was dragging '
    "a cart over the stones, and the lamp on the table shook a little each time a wheel struck an "
    'edge. "I kept all of them," he said at last, "but this is the only one I never opened."',
    # Code of three languages.
    "def moving_average(values: list[float], width: int) -> list[float]:\n"
    '    """The mean of each `width` neighbours."""\n'
    "    if not 0 < width <= len(values):\n"
    '        raise ValueError(f"width {width} is outside 1..{len(values)}")\n'
    "    total = sum(values[:width])\n"
    "    result = [total / width]\n"
    "    for i in range(width, len(values)):\n"
    "        total += values[i] - values[i - width]\n"
    "        result.append(total / width)\n"
    "    return result\n",
    "SELECT city, COUNT(*) AS orders FROM sales WHERE day >= '2021-03-01' GROUP BY city;\n"
    "for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; }\n",
    # A list, numbers, a table.
    "Shopping list:\n- 2 litres of milk\n- 500 g of flour\n- 6 eggs\n- salt, pepper\n\n"
    "1. Heat the oven to 180 degrees.\n2. Mix the flour and the eggs.\n3. Bake for 35 minutes.\n\n"
    "| year | sold |\n|---|---|\n| 2019 | 1,204 |\n| 2020 | 987 |\n| 2021 | 1,530 |\n",
    # Other languages and scripts.
    "Am Morgen ging er zum Markt, kaufte Brot und Käse und kam erst gegen Abend zurück. "
    "Il pleuvait depuis trois jours, et personne ne savait quand cela finirait. "
    "La ciudad está al lado del mar. Сегодня утром в городе тихо. 今天天气很好。",
)

# A turn each; put into the model's own chat template where it has one.
CONVERSATION = (
    ("user", "What is the capital of Italy, and which river runs through it?"),
    ("assistant", "The capital of Italy is Rome. The river Tiber runs through it."),
    ("user", "Write two sentences about it for a child."),
)
SYSTEM = "You answer briefly and politely."

CONVERSATIONS = (
    (CONVERSATION[0],),
    CONVERSATION,
    (("system", SYSTEM), *CONVERSATION),
    (CONVERSATION[0], ("assistant", "<think>\nOr Milan?\n</think>\n\nRome."), CONVERSATION[2]),
    (("user", '  <b>5 < 6</b> & "quotes"\n\twith white space  '),),
)

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "tell_weather",
            "description": "Tell the weather of a day.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "The city's name"},
                    "days": {"type": "integer", "description": "Days from today on"},
                },
                "required": ["city"],
            },
        },
    }
]

GREEDY_PROMPT = "The most important thing to know about the ocean is that"
GREEDY_TOKENS = 32
