#!/usr/bin/env python3
"""Writes data/tokenizer_cases.json: small tokenizers of every supported component, with texts, their
ids and the decoded text as Hugging Face's tokenizers library and sentencepiece give them (pip install
tokenizers sentencepiece).

usage: make_tokenizer_cases.py DEMO_TOKENIZER_JSON OUT
"""

import io
import json
import re
import sys
import tempfile

import tokenizers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import AddedToken, Regex

TEXTS = [
    "", " ", "Hello, world!", "  two  spaces\tand\n\nlines \r\n", "it's 12,345.67 o'clock, isn't it?",
    "naïve café — Ångström ﬁne ½ ²", "e\u0301a\u0308\u0323o\u0327\u0301 \u1100\u1161\u11a8 각",
    "日本語の文字 한국어 русский Ελληνικά ΑΣ İstanbul", "🙂👩‍👩‍👧‍👦🇩🇪👍🏽 end", "\x00\x01\x1f\x7f\u0085\u200b\ufeff",
    "a" * 70, "ab" * 40, "word_word a1b2 x²٣ ①", "\u180e\u2003\u3000x\u00a0y", "𰀀𠀀\U00010efd\u08d3\U0001e5d0",
    "\u2581meta space\u2581", "<s>Hello</s> <mask> x<mask> ymask mask", "   <s>   </s>   ",
    "$100+<tag>=^`|~", "\U00011935\U00011930 \u32ff \u0958", "newHello Hello HELLO",
]

# sentencepiece's normalisation: code points and what they become.
RULES = "41\t61\n48\t68\nA0\t20\n3000\t20\n9\t20\n65 301\tE9\n65 301 61\t78 79\nFB01\t66 69\n200B\t\n"

BYTE_TOKENS = [f"<0x{b:02X}>" for b in range(256)]


def bpe(texts, size=200, byte_fallback=False, alphabet=(), **options):
    """A small BPE of the given pre-split words."""
    from tokenizers import trainers

    scratch = Tokenizer(models.BPE(unk_token="<unk>"))
    scratch.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=list(alphabet),
        show_progress=False, limit_alphabet=60))
    model = json.loads(scratch.to_str())["model"]
    vocab = model["vocab"]
    if byte_fallback:
        for token in BYTE_TOKENS:
            vocab.setdefault(token, len(vocab))
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    return models.BPE(vocab=vocab, merges=merges, byte_fallback=byte_fallback, **options)


WORDS = ("the quick brown fox jumps over the lazy dog and then the other dogs hello world it is "
         "twelve o'clock in the house of words where meta space and tags are").split()
SPACED = ["\u2581" + w for w in WORDS] * 3


def byte_level(pre_tokenizer, demo, **changes):
    spec = json.loads(demo)
    tok = Tokenizer.from_str(json.dumps(spec))
    tok.pre_tokenizer = pre_tokenizer
    tok.decoder = decoders.ByteLevel()
    for name, value in changes.items():
        setattr(tok, name, value)
    return tok


def plain(model, **parts):
    tok = Tokenizer(model)
    for name, value in parts.items():
        setattr(tok, name, value)
    return tok


def sentencepiece_decoder():
    return decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(),
                              decoders.Fuse(), decoders.Strip(" ", 1, 0)])


def cases():
    letters = list("abcdefghijklmnopqrstuvwxyzHW0123456789 .,!?'\u2581")
    fallback = bpe(SPACED, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    spaces = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    yield "bpe, byte fallback", plain(fallback, normalizer=spaces, decoder=sentencepiece_decoder())
    yield "bpe, fused unknown", plain(bpe(SPACED, unk_token="<unk>", fuse_unk=True), normalizer=spaces,
                                      decoder=sentencepiece_decoder())
    yield "bpe, unknown apart", plain(bpe(SPACED, unk_token="<unk>", fuse_unk=False), normalizer=spaces,
                                      decoder=decoders.Fuse())
    yield "bpe, no unknown", plain(bpe(SPACED), normalizer=spaces, decoder=decoders.Fuse())
    yield "bpe, ignore merges", plain(
        models.BPE(vocab={"a": 0, "b": 1, "ab": 2, "Hello": 3, "H": 4, "e": 5, "l": 6, "o": 7,
                          "aba": 8},
                   merges=[("a", "b")], ignore_merges=True),
        pre_tokenizer=pre_tokenizers.WhitespaceSplit(), decoder=decoders.Fuse())
    yield "bpe, prefix and suffix", plain(
        models.BPE(vocab={"<unk>": 0, "a": 1, "##b": 2, "##a": 3, "ab": 4, "##b</w>": 5, "##ab</w>": 6,
                          "a</w>": 7, "l": 8, "##l</w>": 9, "##l": 10},
                   merges=[("a", "##b"), ("##a", "##b</w>")], unk_token="<unk>",
                   continuing_subword_prefix="##", end_of_word_suffix="</w>"),
        pre_tokenizer=pre_tokenizers.Whitespace())

    unigram = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    unigram += [("\u2581" + w, -3.0 - 0.07 * i) for i, w in enumerate(dict.fromkeys(WORDS))]
    unigram += [(c, -7.0 - 0.11 * i) for i, c in enumerate(letters)]
    unigram += [(p, -5.5 - 0.03 * i) for i, p in enumerate(["he", "ll", "llo", "or", "ld", "it", "wor", "ab"])]
    metaspace = pre_tokenizers.Metaspace()
    yield "unigram", plain(models.Unigram(unigram, unk_id=0), pre_tokenizer=metaspace,
                           decoder=decoders.Metaspace())
    with_bytes = unigram + [(t, -20.0) for t in BYTE_TOKENS]
    yield "unigram, byte fallback", plain(models.Unigram(with_bytes, unk_id=0, byte_fallback=True),
                                          pre_tokenizer=metaspace,
                                          decoder=decoders.Sequence([decoders.ByteFallback(),
                                                                     decoders.Metaspace()]))
    for scheme in ["always", "first", "never"]:
        for split in [True, False]:
            tok = plain(models.Unigram(unigram, unk_id=0),
                        pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split),
                        decoder=decoders.Metaspace(prepend_scheme=scheme))
            tok.add_special_tokens(["<s>", "</s>"])
            yield f"metaspace {scheme} {split}", tok

    every = [("<unk>", 0.0)] + [(chr(c), -5.0) for c in range(0x20, 0x7f)]
    characters = models.Unigram(every, unk_id=0)
    for name in ["NFC", "NFD", "NFKC", "NFKD", "Lowercase"]:
        demo_tok = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), DEMO)
        demo_tok.normalizer = getattr(normalizers, name)()
        yield f"normalizer {name}", demo_tok
    for left, right in [(True, True), (True, False), (False, True), (False, False)]:
        yield f"strip {left} {right}", plain(characters, normalizer=normalizers.Strip(left, right),
                                             decoder=decoders.Fuse())
    yield "strip accents", plain(characters, normalizer=normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]),
        decoder=decoders.Fuse())
    yield "replace regex", plain(characters, normalizer=normalizers.Sequence(
        [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Replace(Regex(r"(?i:HELLO)\b"), "<>")]),
        decoder=decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex("o+"), "0")]))
    yield "byte letters", byte_level(None, DEMO, normalizer=normalizers.ByteLevel())

    word = r"\p{L}+|\p{N}{1,3}|[^\s\p{L}\p{N}]+"
    for behavior in ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]:
        for invert in [False, True]:
            yield f"split {behavior} {invert}", byte_level(pre_tokenizers.Sequence(
                [pre_tokenizers.Split(Regex(word), behavior, invert),
                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]), DEMO)
        yield f"punctuation {behavior}", byte_level(pre_tokenizers.Sequence(
            [pre_tokenizers.Punctuation(behavior),
             pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]), DEMO)
    for pattern in [r"[^\S\r\n]+", r"(?m:.+)", r"[\p{L}&&[^a-m]]+", r"[a-c[x-z]]|\h+", r"\w{2}+", r"\W?\d+$",
                    r"\p{Lu}\p{Ll}*|\p{^L}", r"[[:alpha:]\u0030-\u0039]+", r"x{,2}o", r"\w+(?=\s)", r"o*?"]:
        yield f"pattern {pattern}", byte_level(pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), "isolated"),
             pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]), DEMO)
    yield "split string", byte_level(pre_tokenizers.Sequence(
        [pre_tokenizers.Split("l", "merged_with_previous"),
         pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]), DEMO)
    for individual in [False, True]:
        yield f"digits {individual}", byte_level(pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual), pre_tokenizers.ByteLevel(add_prefix_space=False)]), DEMO)
    yield "whitespace", byte_level(pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
        DEMO)
    yield "whitespace split", byte_level(pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=True)]), DEMO)
    yield "byte level, prefix space", byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True), DEMO)

    for options in [{}, {"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True},
                    {"single_word": True}, {"normalized": True}, {"normalized": True, "lstrip": True}]:
        tok = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), DEMO,
                         normalizer=normalizers.Lowercase())
        tok.add_tokens([AddedToken("mask", **{"normalized": False, **options}),
                        AddedToken("Hello", **{"normalized": False, **options}),
                        AddedToken("  ", **{"normalized": False, **options})])
        tok.add_special_tokens(["<s>", "</s>", "<mask>"])
        yield f"added tokens {options}", tok

    template = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), DEMO)
    template.add_special_tokens(["<s>", "</s>"])
    template.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=True),
         processors.TemplateProcessing(single="<s> <s> $A </s>", pair="$A $B",
                                       special_tokens=[("<s>", template.token_to_id("<s>")),
                                                       ("</s>", template.token_to_id("</s>"))])])
    yield "template", template
    yield "strip decoder", plain(characters, decoder=decoders.Sequence(
        [decoders.Strip("H", 1, 0), decoders.Fuse(), decoders.Strip("a", 3, 2), decoders.Replace("ab", "-")]))


class LongestMatch:
    """RWKV's way: at each place the longest token."""

    def __init__(self, tokens):
        self.tokens = {t: i for i, t in tokens.items()}
        self.texts = tokens

    def encode(self, text):
        data, ids = text.encode(), []
        while data:
            best = max((t for t in self.tokens if data.startswith(t)), key=len)
            ids.append(self.tokens[best])
            data = data[len(best):]
        return ids

    def decode(self, ids):
        return b"".join(self.texts[i] for i in ids).decode()


class WithControl:
    """sentencepiece, with the pieces that are control pieces recognised in texts as ours are."""

    def __init__(self, model):
        import sentencepiece

        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    def encode(self, text):
        ids = []
        for part in re.split("(<s>|</s>|<unk>)", text):
            piece = part in ("<s>", "</s>", "<unk>")
            ids += [self.processor.piece_to_id(part)] if piece else self.processor.encode(part)
        return ids

    def decode(self, ids):
        skipped = [self.processor.piece_to_id(p) for p in ("<s>", "</s>", "<unk>")]
        return self.processor.decode([i for i in ids if i not in skipped])


def other_files():
    """Names, file names, contents and oracles of tokenizers without a tokenizer.json."""
    import sentencepiece

    for model_type in ["bpe", "unigram"]:
        for options in [{"byte_fallback": True, "normalization_rule_name": "identity",
                         "remove_extra_whitespaces": False},
                        {"normalization_rule_tsv": RULES, "user_defined_symbols": ["mask", "<tag>"]},
                        {"add_dummy_prefix": False, "normalization_rule_name": "identity"}]:
            model = io.BytesIO()
            with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
                rules.write(options.pop("normalization_rule_tsv", ""))
                rules.flush()
                if "normalization_rule_name" not in options:
                    options["normalization_rule_tsv"] = rules.name
                sentencepiece.SentencePieceTrainer.train(
                    sentence_iterator=iter([" ".join(WORDS)] * 9), model_writer=model,
                    model_type=model_type, vocab_size=330 if "byte_fallback" in options else 70,
                    hard_vocab_limit=False, minloglevel=2, **options)
            proto = model.getvalue()
            yield f"sentencepiece {model_type} {sorted(options)}", "tokenizer.model", proto, WithControl(proto)
    tokens = {i + 1: bytes([i]) for i in range(256)}
    words = [w.encode() for w in dict.fromkeys(WORDS)] + [b"\n\n", b"\r\n", b" the", b"ab" * 5, b"'\"",
                                                          "日本".encode(), b"\xf0\x9f\x99", b"\\"]
    tokens.update({257 + i: w for i, w in enumerate(words)})
    lines = []
    for i, token in tokens.items():
        try:
            literal = repr(token.decode())
        except UnicodeDecodeError:
            literal = repr(token)
        lines.append(f"{i} {literal} {len(token)}\n")
    yield "rwkv", "rwkv_vocab_v1.txt", "".join(lines).encode(), LongestMatch(tokens)


def decode(tok, ids):
    try:
        return tok.decode(ids)
    except BaseException as e:  # the library's Strip panics on an empty token
        if type(e).__name__ != "PanicException":
            raise
        return None


def main():
    global DEMO
    DEMO = open(sys.argv[1], encoding="utf-8").read()
    # Byte-level cases share the demo model's vocabulary, which is not repeated for each.
    demo_model = json.loads(DEMO)["model"]
    out = []
    for name, tok in cases():
        spec = json.loads(tok.to_str())
        if spec["model"].get("merges") and len(spec["model"]["vocab"]) == len(demo_model["vocab"]):
            spec["model"] = "demo"
        results = []
        for text in TEXTS:
            ids = tok.encode(text).ids
            decoded = decode(tok, ids)
            results.append([ids, "=" if decoded == text else decoded])
        out.append({"name": name, "tokenizer": spec, "results": results})
    for name, file, content, tok in other_files():
        results = [[ids, "=" if text == decoded else decoded]
                   for text in TEXTS for ids in [tok.encode(text)] for decoded in [tok.decode(ids)]]
        out.append({"name": name, "file": file, "hex": content.hex(), "results": results})
    with open(sys.argv[2], "w", encoding="utf-8") as f:
        # Results are pairs of the ids and the decoded text, "=" where that is the text itself, null
        # where the library fails.
        f.write('{"texts":' + json.dumps(TEXTS) + ',\n"cases":[\n')
        f.write(",\n".join(json.dumps(case, separators=(",", ":")) for case in out) + "\n]}\n")
    print(len(out), "cases by tokenizers", tokenizers.__version__)


if __name__ == "__main__":
    main()
