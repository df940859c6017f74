"""Texts that tokenizer tests share."""

TEXTS = [
    "",
    " ",
    "  two  spaces ",
    "The dog sleeps.",
    "bananaaaa ababa",
    "\n\n\tx\r\n y",
    "naïve 你好 😀 ok",
    "12345 don't I'LL",
    "ж unknown ☃",
]
