"""Made-up text: what the small tokenizers are trained on, and the strings that the fixtures hold. No file is read."""
import random
import unicodedata

WORDS = """the a of and to in is was it for with as on be at by not this that from they we you can will have has
were their which when where there about would could should river mountain engine token cache sequence attention head
layer window budget kernel memory network tensor matrix vector gradient house garden window bottle copper silver lamp
quick brown lazy quiet yellow strange distant ordinary careful simple running walked thinking written spoken measured
computing sharded evicted retained pooled smoothed decoding prefill reading writing number needle haystack question
answer city bridge harbour island winter summer morning evening letter paper pencil story reason method result table
I I'm you're we've they'll he'd isn't it's don't can't I'LL WE'RE ISN'T O'Brien rock'n'roll 'tis ſ's it'ſ""".split()
FOREIGN = """straße Übermut garçon élève naïve coöperate señor mañana œuvre Łódź Ångström çünkü ığdır привет мир снова
книга вода ёлка ελληνικά λόγος ὀδύσσεια שלום עולם מִלָּה مرحبا بالعالم كِتَاب हिन्दी नमस्ते क्षेत्र বাংলা தமிழ் ไทยภาษา
你好 世界 注意力 缓存 東京 日本語 カタカナ ひらがな ﾊﾝｶｸ 한국어 안녕하세요 각 ភាសា ქართული Հայերեն አማርኛ ᏣᎳᎩ ᚠᚢᚦ""".split()
CODE = ["def f(x):\n    return x + 1\n", "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}\r\n", "#include <vector>\n",
        "x = {'a': [1, 2.5e-3], \"b\": None}", "SELECT * FROM t WHERE id=42;", "if (a && b || !c) goto end;",
        "\t\tif x:\n\t\t\tpass\n\n\n", "https://example.org/a?b=c&d=%20#e", "<div class=\"x\">&nbsp;</div>",
        "std::vector<std::string> v{\"x\", \"y\"};", "lambda *a, **k: (a, k)", "0x1F 0b1010 1_000_000 3.14159 1e10",
        "a->b->c != d <<= 2 >>> 1 === !== ??=", "\\frac{\\partial L}{\\partial w_{ij}}", "$ git commit -m 'x' && make -j2"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", " \n", "\n ", "\v", "\f", "\x85", "\u00a0", "\u1680", "\u180e",
          "\u2000", "\u2003", "\u200a", "\u200b", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\ufeff", "\t \t", " \u3000 "]
DIGITS = ["0", "7", "42", "123", "1234", "12345678901234567890", "3.14", "1,000", "٠١٢٣", "१२३", "①②", "½¼", "Ⅷ", "²³", "𝟘𝟙", "一二三",
          "2024-05-17", "+49-30/123"]
EMOJI = ["😀", "👍🏽", "👩‍👩‍👧‍👦", "🇩🇪", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "❤️", "☃", "1️⃣", "🤷🏿‍♀️", "🫠"]
COMBINING = ["e\u0301", "a\u0308\u0323", "o\u0323\u0308", "n\u0303", "\u1112\u1161\u11ab", "\u0301", "q\u0307\u0323", "\u212b", "\u2126", "\ufb01",
             "Z\u0351\u036b\u0343", "\u0915\u094d\u0937", "s\u0323\u0307", "\u0344", "\u0958"]
RTL = ["\u202eabc\u202c", "\u200fשלום\u200f 123", "العدد ١٢٣ (تم)", "abc אבג def", "\u2067x\u2069"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_start|>user\n", "<|im_end|>\n", "<|im_start", "<|im_end|", "<|", "|>", "<mask>",
           " <mask> ", "<pad>", "wordy", "swordy", "wordy-", "ñandú", "n\u0303andu\u0301", "<tool>", "\n<tool>\n\n", "<|endoftext|><|endoftext|>",
           "<|ENDOFTEXT|>"]
PIECES = ["<s>", "</s>", "<unk>", "<bos>", "<eos>", "<pad>", "<mask>", "[INST]", "[/INST]", " [/INST] ", "[TOOL_CALLS]", "[INST", "INST]", "<start_of_turn>",
          "<end_of_turn>", "<start_of_turn>user\n", "<end_of_turn>\n", "<s>[INST]", "</s><s>", "<s> ", " </s>", "<<SYS>>\n", "\n<</SYS>>\n\n", "<0x0A>", "<0xE2>",
          "<0x0a>", "<0xGG>", "<0x", "\u2581", "\u2581\u2581", " \u2581 ", "\u2581a", "\u2582", "\n\n", "\n\n\n", "\n\n\n\n\n", "<unk><unk>", "\ufffd", "\ufffd\ufffd"]
PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + ["...", "--", "?!", "\u2014", "\u201cx\u201d", "\u2026", "\u00a1", "\u20ac", "\u2260", "\u2192", "\u00a9", "''", "'", "'S"]


def sentence(rng, words):
    text = " ".join(rng.choice(words) for _ in range(rng.randint(3, 12)))
    return text[:1].upper() + text[1:] + rng.choice([".", "!", "?", ",", ";", ":\n"])


def training_text(seed):
    """Lines for training: mostly words, with numbers, code and other scripts."""
    rng = random.Random(seed)
    for _ in range(1500):
        kind = rng.random()
        if kind < 0.7:
            yield sentence(rng, WORDS)
        elif kind < 0.85:
            yield sentence(rng, FOREIGN + WORDS)
        elif kind < 0.95:
            yield rng.choice(CODE)
        else:
            yield rng.choice(DIGITS) + " " + rng.choice(WORDS) + " " + str(rng.randint(0, 99999))


def any_character(rng):
    """A random scalar value of any plane; every plane and every UTF-8 length comes up."""
    while True:
        low, high = rng.choice([(0, 0x80), (0x80, 0x800), (0x800, 0x10000), (0x10000, 0x20000), (0x20000, 0x40000),
                                (0x40000, 0xF0000), (0xF0000, 0x110000)])
        point = rng.randrange(low, high)
        if not 0xD800 <= point < 0xE000:
            return chr(point)


def assigned_character(rng):
    while True:
        c = any_character(rng)
        if unicodedata.category(c) != "Cn":
            return c


def strings(count, seed, special=SPECIAL):
    """The strings to tokenize. The first few are fixed edge cases. special: texts of special tokens and the like."""
    rng = random.Random(seed)
    out = ["", " ", "  ", "\n", "a", "\0", "\0a\0", "'", "'s", " 's", "a's b'LL", "\U0010ffff", "\u07ff\u0800\uffff\U00010000", "x" * 300, " " * 300,
           "\n" * 300, " \n" * 100, "ab" * 150, "1" * 100, "é" * 100, "🙂" * 50, "a " * 100, "!" * 200, " " * 100 + "a", "\t" * 64 + "}"]
    out += special + CODE + DIGITS + EMOJI + COMBINING + RTL + SPACES
    pools = [WORDS, WORDS, FOREIGN, CODE, DIGITS, EMOJI, COMBINING, RTL, special, PUNCTUATION, SPACES]
    while len(out) < count:
        kind = rng.random()
        if kind < 0.2:
            out.append(sentence(rng, WORDS if rng.random() < 0.6 else FOREIGN + WORDS))
        elif kind < 0.3:
            out.append("".join(any_character(rng) for _ in range(rng.randint(1, 8))))
        elif kind < 0.4:
            out.append("".join(assigned_character(rng) for _ in range(rng.randint(1, 8))))
        elif kind < 0.5:
            out.append("".join(chr(rng.randrange(128)) for _ in range(rng.randint(1, 24))))
        elif kind < 0.65:
            out.append("".join(rng.choice(SPACES + ["a", "1", ".", "\n"]) for _ in range(rng.randint(1, 10))))
        else:
            parts = []
            for _ in range(rng.randint(1, 7)):
                parts.append(rng.choice(rng.choice(pools)))
                parts.append(rng.choice(["", " ", " ", rng.choice(SPACES)]))
            out.append("".join(parts))
    return out[:count]
