"""A tokenizer for tests: each token is one letter, and nothing ends a text unless `eos` says so."""


class Letters:
    bos_token = None
    chat_template = None

    def __init__(self, eos=None):
        self.eos_token_id = eos
        self.all_special_tokens = []

    def encode(self, text, add_special_tokens=True):
        return [ord(c) - 97 for c in text]

    def decode(self, ids, **_):
        return "".join(chr(97 + int(i)) for i in ([ids] if isinstance(ids, int) else ids))

    def get_vocab(self):
        return {}
