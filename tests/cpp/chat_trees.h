#pragma once

// A chat template in an artifact's form: system messages in brackets, turns between the tokens of
// byte_tokenizer.h. It refuses a user's "<tool>" and an answer without text.
inline constexpr const char* kTurns = R"({"inputs": ["messages", "add_generation_prompt"], "thoughts": [],
  "tree": [
    ["name", "messages"], ["name", "m"], ["attr", "role", 1], ["const", "system"], ["compare", "eq", 2, 3],
    ["const", "["], ["attr", "content", 1], ["const", "]"], ["out", 5, 6, 7], ["seq", 8],
    ["const", "user"], ["compare", "eq", 2, 10], ["const", "<tool>"], ["compare", "in", 12, 6],
    ["const", "it has a tool"], ["raise", 14], ["out", 15], ["seq", 16], ["if", 13, 17],
    ["const", "<|user|>"], ["const", "<|end|>"], ["out", 19, 6, 20], ["seq", 18, 21],
    ["attr", "content", 1], ["not", 23], ["const", "an empty answer"], ["raise", 25], ["out", 26],
    ["seq", 27], ["if", 24, 28], ["const", "<|model|>"], ["out", 30, 6, 20], ["seq", 29, 31],
    ["if", 4, 9, 11, 22, 32], ["seq", 33], ["for", 1, 0, -1, 34, -1], ["name", "add_generation_prompt"],
    ["name", "add_generation_prompt"], ["out", 30], ["seq", 38], ["if", 37, 39], ["seq", 35, 40]]})";
