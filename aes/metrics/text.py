"""Predicted and gold answer as text -> BLEU-4 and ROUGE, in percent.

The scores are those of LLaMA-Factory: rouge-chinese over jieba's words, nltk's sentence BLEU over
characters. They say how alike two texts read, not whether the grade is right.
This module does not know grades, and takes nothing from torch.
"""

from __future__ import annotations

import math
import re
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence, Set
from functools import cache, lru_cache
from itertools import count, pairwise
from typing import Any

from rapidfuzz.distance import LCSseq

NAMES = ("bleu-4", "rouge-1", "rouge-2", "rouge-l")
"""What is measured, in the order in which it is shown."""

MAX_ORDER = 4
"""BLEU-4 counts runs of one to four characters."""

# rouge-chinese begins a sentence after a stop and after six dots. Its further rules, about closing
# quotes and full-width dots, never apply: those are words of their own, and spaces part the words.
_SENTENCE_END = re.compile(r"([。！？?]|\.{6})(.)")


def text_scores(pred: str, gold: str) -> dict[str, float]:
    """How alike a prediction is to its gold answer.

    No text raises. An empty text scores 0, also against its like; one of nothing but white space
    has a ROUGE of 0, while to BLEU-4 white space is characters.

    Args:
        pred: What the model wrote.
        gold: What it should have written; its words are kept, as gold texts come again for every
            model that is evaluated.

    Returns:
        By ``NAMES``, each in ``[0, 100]`` and rounded to 4 decimals.

    Source: the scores reported by LLaMA-Factory 0.9; nltk 3.10 and rouge-chinese 1.0.3.
    """
    hyp, ref = _cut(pred), _cut_gold(gold)
    fractions = (_bleu(pred, gold), *_rouge(hyp, ref))
    return {name: round(f * 100, 4) for name, f in zip(NAMES, fractions, strict=True)}


@cache
def _tokenizer() -> Any:
    """Jieba's segmenter over its own dictionary; takes most of a second, once a process.

    Built past jieba's cache file, which saves no time, lies under a fixed name in the temporary
    folder, where anybody may have put another, and cannot be written everywhere. Apart from
    jieba's global segmenter, so that words that other code adds there do not change the scores.
    """
    with warnings.catch_warnings():
        # About pkg_resources and about escapes in its patterns, none of it ours to mend.
        warnings.simplefilter("ignore")
        import jieba

    tokenizer = jieba.Tokenizer()
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer


def _cut(text: str) -> tuple[str, ...]:
    """Words of a text, none of a blank one; a blank sentence within yields one empty word.

    That empty word is rouge-chinese's: it joins the words by spaces, cuts sentences and splits
    each again, and a blank sentence (as after a stop at the end of a paragraph) splits into one
    empty string, which then counts and matches like a word.
    """
    joined = _SENTENCE_END.sub("\\1\n\\2", " ".join(_tokenizer().cut(text)))
    sentences = [s.split() for s in joined.rstrip().split("\n") if s]
    # Interned, a word that comes again costs a kept text 8 bytes.
    return tuple(sys.intern(word) for words in sentences for word in (words or [""]))


# About 10 KB for a text of 1,400 characters.
_cut_gold = lru_cache(maxsize=4096)(_cut)


def _rouge(pred: Sequence[str], gold: Sequence[str]) -> tuple[float, float, float]:
    """ROUGE-1 and ROUGE-2 over different n-grams, ROUGE-L over all words as one sequence.

    Source: Lin (2004), Text Summarization Branches Out, 74-81; sets of n-grams instead of counts,
        and the words of all sentences in one sequence, are rouge-chinese's.
    """
    one = _overlap(set(pred), set(gold))
    two = _overlap(set(pairwise(pred)), set(pairwise(gold)))
    # Numbers, as rapidfuzz compares hashes of words, by which "" equals a NUL character.
    ids: defaultdict[str, int] = defaultdict(count().__next__)
    length = LCSseq.similarity([ids[w] for w in pred], [ids[w] for w in gold])
    return one, two, _f_score(length, len(pred), len(gold))


def _overlap(pred: Set[Any], gold: Set[Any]) -> float:
    return _f_score(len(pred & gold), len(pred), len(gold))


def _f_score(num_common: int, num_pred: int, num_gold: int) -> float:
    # A blank text has no words, a single word no bigrams. The 1e-8 is rouge-chinese's and keeps
    # the score of equal texts below 1.
    precision = num_common / num_pred if num_pred else 0.0
    recall = num_common / num_gold if num_gold else 0.0
    return 2.0 * ((precision * recall) / (precision + recall + 1e-8))


def _bleu(pred: str, gold: str) -> float:
    """Sentence BLEU-4 over characters, white space included; 0 if no character is shared.

    An order without a match counts 1/2, 1/4, ... of a match, halved each time; an order longer than
    the prediction counts as one n-gram. The operations stand in nltk's order, so that the result
    is nltk's to the last bit and rounds alike.

    Source: Papineni et al. (2002), ACL, 311-318; smoothing method 3 of Chen and Cherry (2014), WMT,
        362-367.
    """
    matches = [_count_matches(pred, gold, n) for n in range(1, MAX_ORDER + 1)]
    if not matches[0]:
        return 0.0
    logs, num_empty = [], 0
    for n, num_matches in enumerate(matches, start=1):
        num_pred = max(1, len(pred) - n + 1)
        if not num_matches:
            num_empty += 1
        precision = num_matches / num_pred if num_matches else 1 / (2**num_empty * num_pred)
        logs.append(math.log(precision) / MAX_ORDER)
    brevity = 1.0 if len(pred) > len(gold) else math.exp(1 - len(gold) / len(pred))
    return brevity * math.exp(math.fsum(logs))


def _count_matches(pred: str, gold: str, n: int) -> int:
    """N-grams of the prediction that the gold answer holds, each at most as often as there."""
    in_pred, in_gold = (
        Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in (pred, gold)
    )
    shared = in_pred.keys() & in_gold.keys()
    return sum(min(in_pred[n_gram], in_gold[n_gram]) for n_gram in shared)
