#!/usr/bin/env python3
"""Compares token ids and decoded text with the libraries that the tokenizers come from.

usage: tokenizer_parity.py --tool TOOL [--count N] [--seed S] [FOLDER...]

TOOL is the built tokenizer_tool. A folder holds a tokenizer.json (compared with the Python package
tokenizers), a tokenizer.model (with sentencepiece) or a rwkv_vocab*.txt (with a few lines below). To
these come small models of every type that sentencepiece trains, trained here. A folder for which
there is nothing to compare with is passed over, and said so; without any the exit code is 77. The
environment variable FLA_TOKENIZERS may name a folder with more of them.
"""

import argparse
import ast
import glob
import io
import json
import os
import random
import struct
import subprocess
import sys
import tempfile

SKIP = 77

WORDS = """the of and to in a is that it was for on are as with his they I at be this have from or
had by not word but what some we can out other were all there when up use your how said an each she
which do their time if will way about many then them write would like so these her long make thing
Don't they'll we've I'M YOU'RE 'tis 123 1234567 3.14159 1e-9 0x7fff C++ #include <vector> {return;}
http://example.com/a?b=c&d=%20 user@example.org naïve café Zürich Straße İstanbul ﬁne ǆ Ǆ
привет мир Ελληνικά Ωμέγα שלום عربي ٣٤٥ हिन्दी क्षत्रिय ภาษาไทย 日本語 漢字 かな カタカナ 한국어 조합
中文字符 ﷽ ﷺ ℵ ½ ² Ⅷ ㎏ ① ｆｕｌｌ ＷＩＤＴＨ 𝔘𝔫𝔦 𐍈 𠀀 𰀀 🙂 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 👍🏽 ♥️ ☎️""".split()
MARKS = ["\u0300", "\u0301", "\u0308", "\u0327", "\u0323", "\u0345", "\u20dd", "\u05b0", "\u0651",
         "\u094d", "\u3099", "\u1161", "\u11a8", "\ufe0f", "\u200d", "\u200c", "\u180e", "\u0338"]
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\n\n", "\u00a0", "\u2003", "\u3000", "\u0085", "\u2028",
          "\v", "\f", "\u200b", "\ufeff", "\u2581", " \n ", "\r"]
BLOCKS = [(0x20, 0x7F), (0xA0, 0x250), (0x250, 0x370), (0x370, 0x530), (0x530, 0x900),
          (0x900, 0x1100), (0x1100, 0x1200), (0x1200, 0x2000), (0x2000, 0x2C00), (0x2C00, 0x3400),
          (0x3400, 0xA000), (0xA000, 0xAC00), (0xAC00, 0xD7B0), (0xD7B0, 0xD800),
          (0xE000, 0x10000), (0x10000, 0x20000), (0x1F000, 0x1FB00), (0x20000, 0x33480),
          (0xE0000, 0xE0200), (0xF0000, 0x110000)]


class Texts:
    """Random and adversarial texts."""

    def __init__(self, seed, added_tokens):
        self.random = random.Random(seed)
        self.added = added_tokens or ["<s>"]

    def character(self):
        first, last = self.random.choice(BLOCKS)
        return chr(self.random.randrange(first, last))

    def any_character(self):
        while True:
            c = self.random.randrange(0x110000)
            if not 0xD800 <= c < 0xE000:
                return chr(c)

    def piece(self):
        r = self.random
        kind = r.randrange(16)
        if kind < 4:
            return r.choice(WORDS)
        if kind < 7:
            return r.choice(SPACES)
        if kind == 7:
            return r.choice(SPACES) * r.randrange(1, 40)
        if kind == 8:
            return "".join(self.character() for _ in range(r.randrange(1, 8)))
        if kind == 9:
            return "".join(self.any_character() for _ in range(r.randrange(1, 4)))
        if kind == 10:
            return r.choice("ae\u00e9oA\u1112\u0915\u05d0") + "".join(
                r.choice(MARKS) for _ in range(r.randrange(1, 5)))
        if kind == 11:
            token = r.choice(self.added)
            return token if r.randrange(3) else token[: r.randrange(1, len(token) + 1)]
        if kind == 12:
            return chr(r.randrange(0x20))
        if kind == 13:
            return "".join(chr(r.randrange(0x21, 0x7F)) for _ in range(r.randrange(1, 12)))
        if kind == 14:
            word = r.choice(WORDS)
            return r.choice([word.upper(), word.title(), word * 3, word[::-1]])
        return r.choice(["a", "ab", "=", "-", "0", "好", "\u0301", "🙂", "😀\u200d"]) * r.randrange(
            1, 60)

    def text(self):
        r = self.random
        separator = r.choice(["", "", " "])
        return separator.join(self.piece() for _ in range(r.randrange(0, 14)))


class Tool:
    """Runs the tokenizer_tool on one folder."""

    def __init__(self, path, folder):
        self.path, self.folder = path, folder

    def run(self, command, request):
        with tempfile.TemporaryFile() as stdin:
            stdin.write(request)
            stdin.seek(0)
            done = subprocess.run([self.path, self.folder, command], stdin=stdin,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if done.returncode != 0:
            raise RuntimeError(f"{self.path} {self.folder} {command}: {done.stderr.decode()}")
        return done.stdout, done.stderr

    def encode(self, texts):
        """Lists of ids; None where the text was refused."""
        request = b"".join(struct.pack("=I", len(t)) + t for t in texts)
        (answer, _), at, ids = self.run("encode", request), 0, []
        while at < len(answer):
            (count,) = struct.unpack_from("=I", answer, at)
            at += 4
            if count == 0xFFFFFFFF:
                ids.append(None)
                continue
            ids.append(list(struct.unpack_from(f"={count}i", answer, at)))
            at += 4 * count
        return ids

    def decode(self, lists):
        """Pairs of the whole and the streamed decoding, and the number of prefixes of the lists:
        the tool fails where a stream that ends after one is not the whole of it."""
        request = b"".join(struct.pack(f"=I{len(ids)}i", len(ids), *ids) for ids in lists)
        (answer, prefixes), at, texts = self.run("decode", request), 0, []
        while at < len(answer):
            pair = []
            for _ in range(2):
                (count,) = struct.unpack_from("=I", answer, at)
                pair.append(answer[at + 4:at + 4 + count].decode("utf-8"))
                at += 4 + count
            texts.append(tuple(pair))
        return texts, int(prefixes)


INVALID_UTF8 = [b"\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"abc\xe4\xbd", b"\xff",
                b"\xf8\x88\x80\x80\x80", b"\xe0\x80\x80", b"ok \xc3"]


def differences(what, wanted, got, inputs, limit=5):
    wrong = [i for i in range(len(wanted)) if wanted[i] != got[i]]
    for i in wrong[:limit]:
        print(f"  {what} of {inputs[i]!r}:\n    wanted {wanted[i]!r}\n    got    {got[i]!r}")
    if wrong:
        print(f"  {len(wrong)} of {len(wanted)} {what}s differ")
    return len(wrong)


def has_ill_formed_bytes(tokens):
    """True where byte tokens do not make characters: the library then drops the whole run of them,
    and this project only the bytes that belong to no character."""
    run = b""
    for token in tokens + ["end"]:
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            run += bytes([int(token[3:5], 16)])
            continue
        try:
            run.decode("utf-8")
        except UnicodeDecodeError:
            return True
        run = b""
    return False


class JsonOracle:
    """Hugging Face's library."""

    def __init__(self, path):
        import tokenizers

        self.name = "tokenizers " + tokenizers.__version__
        self.tokenizer = tokenizers.Tokenizer.from_file(path)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        added = self.tokenizer.get_added_tokens_decoder().values()
        self.added_tokens = [token.content for token in added]
        self.size = self.tokenizer.get_vocab_size(with_added_tokens=True)
        self.bos = self.bos_to_add(os.path.join(os.path.dirname(path), "tokenizer_config.json"))

    def bos_to_add(self, path):
        if not os.path.exists(path):
            return None
        with open(path, encoding="utf-8") as f:
            config = json.load(f)
        if not config.get("add_bos_token"):
            return None
        bos = self.tokenizer.token_to_id(config["bos_token"])
        return None if self.tokenizer.encode("").ids[:1] == [bos] else bos

    def usable(self, text):
        return True

    def encode(self, texts):
        prefix = [] if self.bos is None else [self.bos]
        return [prefix + e.ids for e in self.tokenizer.encode_batch(texts)]

    def decode(self, lists):
        return self.tokenizer.decode_batch(lists)

    def decodes_alike(self, ids):
        return not has_ill_formed_bytes([self.tokenizer.id_to_token(i) or "" for i in ids])


class SentencePieceOracle:
    """Without its treatment of control pieces: they are plain text to it, and tokens to us."""

    def __init__(self, path):
        import sentencepiece

        self.name = "sentencepiece " + sentencepiece.__version__
        self.processor = sentencepiece.SentencePieceProcessor(model_file=path)
        self.size = self.processor.get_piece_size()
        self.control = [self.processor.id_to_piece(i) for i in range(self.size)
                        if self.processor.is_control(i) or self.processor.is_unknown(i)]
        self.added_tokens = ["<sample>"]

    def usable(self, text):
        return not any(piece in text for piece in self.control)

    def encode(self, texts):
        return [self.processor.encode(text) for text in texts]

    def decode(self, lists):
        return [self.processor.decode(ids) for ids in lists]

    def decodes_alike(self, ids):
        # Of an unknown piece sentencepiece makes a mark of its own, and it drops a space after a
        # control piece at the beginning.
        return not any(self.processor.is_unknown(i) or self.processor.is_control(i) for i in ids)


class RwkvOracle:
    """At each place the longest token."""

    def __init__(self, path):
        self.name = "longest match"
        self.tokens = {}
        for line in open(path, encoding="utf-8"):
            token = ast.literal_eval(line[line.index(" "):line.rindex(" ")].strip())
            self.tokens[token.encode() if isinstance(token, str) else token] = int(line.split()[0])
        self.longest = max(map(len, self.tokens))
        self.texts = {i: token for token, i in self.tokens.items()}
        self.size = max(self.texts) + 1
        self.added_tokens = ["\n\n"]

    def usable(self, text):
        return True

    def encode_one(self, text):
        ids, at = [], 0
        while at < len(text):
            end = min(len(text), at + self.longest)
            while text[at:end] not in self.tokens:
                end -= 1
            ids.append(self.tokens[text[at:end]])
            at = end
        return ids

    def encode(self, texts):
        return [self.encode_one(text.encode()) for text in texts]

    def decode(self, lists):
        return [b"".join(self.texts.get(i, b"") for i in ids).decode(errors="replace")
                for ids in lists]

    def decodes_alike(self, ids):
        return True


ORACLES = [("tokenizer.json", JsonOracle), ("tokenizer.model", SentencePieceOracle),
           ("rwkv_vocab*.txt", RwkvOracle)]


def oracle_of(folder):
    """None, with a message, where there is nothing to compare with."""
    for pattern, oracle in ORACLES:
        for path in sorted(glob.glob(os.path.join(glob.escape(folder), pattern)))[:1]:
            try:
                return oracle(path)
            except ImportError as e:
                print(f"NOT COMPARED: {folder}: {e}")
                return None
    print(f"NOT COMPARED: {folder}: no tokenizer in it")
    return None


# What sentencepiece's trainer is asked for; the first is its default but for the size.
TRAINED = {
    "unigram": {},
    "unigram-bytes": {"byte_fallback": True, "normalization_rule_name": "identity",
                      "remove_extra_whitespaces": False, "vocab_size": 700},
    "unigram-symbols": {"user_defined_symbols": ["mask", "<tag>", "ma", "the", "\u2581of"],
                        "normalization_rule_name": "nfkc_cf"},
    "unigram-suffix": {"treat_whitespace_as_suffix": True},
    "unigram-unused": {"unused": True},
    "bpe": {"model_type": "bpe"},
    "bpe-bytes": {"model_type": "bpe", "byte_fallback": True, "vocab_size": 700,
                  "normalization_rule_name": "identity", "add_dummy_prefix": False},
    "bpe-symbols": {"model_type": "bpe", "user_defined_symbols": ["mask", "<tag>", "ma", "the"],
                    "normalization_rule_name": "nmt_nfkc_cf"},
    "bpe-suffix": {"model_type": "bpe", "treat_whitespace_as_suffix": True,
                   "remove_extra_whitespaces": False},
    "bpe-unused": {"model_type": "bpe", "unused": True},
    "word": {"model_type": "word"},
    "char": {"model_type": "char"},
}


def with_unused_pieces(model):
    """A ModelProto in which every fifth piece is of the type UNUSED."""
    pieces, at = [], 0

    def varint(value):
        return bytes([value & 0x7F | 0x80]) + varint(value >> 7) if value > 0x7F else bytes([value])

    while model[at] == 0x0A:
        size, shift, at = 0, 0, at + 1
        while True:
            size |= (model[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if model[at - 1] < 0x80:
                break
        pieces.append(model[at:at + size])
        at += size
    for i in range(10, len(pieces), 5):  # the first ones are not of the type NORMAL
        pieces[i] += b"\x18\x05"
    return b"".join(b"\x0A" + varint(len(piece)) + piece for piece in pieces) + model[at:]


def train_models(folder):
    """Folders with a tokenizer.model each."""
    try:
        import sentencepiece
    except ImportError:
        return []
    source = Texts(7, ["<tag>", "mask"])
    texts = [" ".join(source.random.choice(WORDS[:90]) for _ in range(20)) for _ in range(300)]
    texts += [" ".join(source.piece() for _ in range(10)).replace("\0", "") for _ in range(300)]
    folders = []
    for name, options in TRAINED.items():
        options = {"vocab_size": 400, **options}
        unused, model = options.pop("unused", False), io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=model, hard_vocab_limit=False,
            character_coverage=0.98, minloglevel=2, **options)
        folders.append(os.path.join(folder, "sentencepiece-" + name))
        os.mkdir(folders[-1])
        model = model.getvalue()
        with open(os.path.join(folders[-1], "tokenizer.model"), "wb") as f:
            f.write(with_unused_pieces(model) if unused else model)
    return folders


def check(tool_path, folder, oracle, count, seed):
    tool = Tool(tool_path, folder)
    source = Texts(seed, oracle.added_tokens)
    texts = [text for text in (source.text() for _ in range(count)) if oracle.usable(text)]
    wanted = oracle.encode(texts)
    got = tool.encode([t.encode("utf-8") for t in texts])
    wrong = differences("encoding", wanted, got, texts)

    refused = tool.encode(INVALID_UTF8)
    wrong += differences("encoding", [None] * len(INVALID_UTF8), refused, INVALID_UTF8)

    lists = wanted[: count // 2]
    # A long text here and there, and lists that end wherever a stream may.
    lists += [sum(source.random.sample(wanted, min(60, len(wanted))), [])
              for _ in range(1 + count // 1000)]
    lists += [ids[:source.random.randrange(len(ids) + 1)] for ids in wanted[: count // 4]]
    lists += [[source.random.randrange(oracle.size) for _ in range(source.random.randrange(30))]
              for _ in range(count // 4)]
    decoded, prefixes = tool.decode(lists)
    wrong += differences("streamed decoding", [whole for whole, _ in decoded],
                         [streamed for _, streamed in decoded], lists)
    alike = [i for i, ids in enumerate(lists) if oracle.decodes_alike(ids)]
    wrong += differences("decoding", oracle.decode([lists[i] for i in alike]),
                         [decoded[i][0] for i in alike], [lists[i] for i in alike])
    print(f"{folder} by {oracle.name}: {len(texts)} texts, {sum(map(len, wanted))} tokens, "
          f"{len(lists)} decodings ({len(alike)} compared), {prefixes} prefixes streamed: "
          f"{wrong} differences", flush=True)
    return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tool", required=True)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("folders", nargs="*")
    arguments = parser.parse_args()
    more = os.environ.get("FLA_TOKENIZERS", "")
    folders = arguments.folders + [f for f in glob.glob(os.path.join(more, "*")) if more and os.path.isdir(f)]
    if not more:
        print("FLA_TOKENIZERS is not set: real models' tokenizers are NOT COMPARED")
    with tempfile.TemporaryDirectory() as trained:
        folders = sorted(set(folders)) + train_models(trained)
        oracles = [(folder, oracle_of(folder)) for folder in folders]
        oracles = [(folder, oracle) for folder, oracle in oracles if oracle is not None]
        if not oracles:
            print("SKIPPED, NOTHING WAS COMPARED")
            return SKIP
        wrong = sum(check(arguments.tool, folder, oracle, arguments.count, arguments.seed)
                    for folder, oracle in oracles)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
