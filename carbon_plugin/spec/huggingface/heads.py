"""Read what a model predicts from the class that its `config.json` names: tokens, classes, or nothing at all.

A classifier made of a language model has no product with the vocabulary, which for BERT is a fifth of the work of a
step.
"""

from __future__ import annotations

from msgspec import Struct

from carbon_plugin.spec.huggingface.keys import ConfigKeys
from carbon_plugin.spec.models.blocks import ModelPart

OF_A_WHOLE = (
    "ForSequenceClassification",
    "ForNextSentencePrediction",
    "ForAudioClassification",
    "ForImageClassification",
    "ForImageClassificationWithTeacher",
    "ForVideoClassification",
    "ForRewardModeling",
)
OF_TOKENS = (
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForQuestionAnsweringSimple",
    "ForAudioFrameClassification",
)
"""The ends of the names of classes that predict something of a whole text, image or sound, and of each token."""
OF_EACH_TOKEN = ("ElectraForPreTraining",)
"""The classes that say of each token whether it was replaced (arXiv 2003.10555 section 2)."""
WITH_LANGUAGE = ("LMHeadModel", "DoubleHeadsModel", "MTModel")
"""The ends of names that end like those of a model without a head and have one for language."""
OF_TWO = ("ForNextSentencePrediction", "ForQuestionAnswering", "ForQuestionAnsweringSimple")
"""The ends of the names of classes that have two outputs by what they do, such as where an answer begins and ends."""
TWO = 2
"""The number of classes where a config does not state its labels (transformers' `num_labels`)."""


class Head(Struct, frozen=True, kw_only=True):
    """One instance holds what a model predicts, and `name`, the class that the config names ("" where it names none).

    `outputs` is the number of columns of the head that each token passes: None for the vocabulary, 0 without such a
    head. `of_whole` is the number of columns of a head for the whole input, which takes no time, and `pooled` says that
    a dense layer for the whole input may stand before it. `labels_stated` is false where the config does not say how
    many classes there are.
    """

    name: str
    outputs: int | None
    of_whole: int = 0
    pooled: bool = True
    labels_stated: bool = True

    @property
    def assumption(self) -> str:
        """Return a note on the number of classes where the config does not state it, empty where it does."""
        if self.labels_stated:
            return ""
        return f"{TWO} classes (num_labels), which is the default of transformers, because the config states none"

    @property
    def note(self) -> str:
        """Return a note that says what is predicted in place of tokens, empty where tokens are."""
        if self.outputs is None:
            return ""
        columns = self.outputs or self.of_whole
        what = f"a head of {columns} columns" if columns else "no head"
        assumed = f"; {self.assumption}" if self.assumption else ""
        return (
            f"{self.name} has {what}: no product with the vocabulary is priced (state outputs: null for one){assumed}"
        )


def head_of(keys: ConfigKeys) -> Head:
    """Return what the class that a config names predicts; a config that names none predicts tokens.

    A class whose code comes with the weights (`auto_map`) may be called by another name than what it is used for, so
    that it predicts tokens.
    """
    named = keys.config.get("architectures")
    name = str(named[0]) if isinstance(named, list) and named else ""
    if name.endswith("ForMultipleChoice"):
        return Head(name=name, outputs=0, of_whole=1)
    if name.endswith(OF_A_WHOLE):
        return classifier(keys, name)
    if name in OF_EACH_TOKEN:
        return Head(name=name, outputs=1)
    if name.endswith(OF_TOKENS):
        labels, stated = labels_of(keys, name)
        return Head(name=name, outputs=labels, pooled=False, labels_stated=stated)
    bare = name.endswith(("Model", "WithProjection")) and not name.endswith(WITH_LANGUAGE)
    if bare and "auto_map" not in keys.config:
        return Head(name=name, outputs=0)
    return Head(name=name, outputs=None)


def whole_head(head: Head, hidden: int) -> tuple[ModelPart, ...]:
    """Return the head for the whole input as a part, where there is one."""
    if not head.of_whole:
        return ()
    return (ModelPart(name="head for the whole input", parameters=head.of_whole * hidden),)


def classifier(keys: ConfigKeys, name: str) -> Head:
    """Return the head of a class that says which class a whole input is of."""
    labels, stated = labels_of(keys, name)
    return Head(name=name, outputs=0, of_whole=labels, labels_stated=stated)


def labels_of(keys: ConfigKeys, name: str) -> tuple[int, bool]:
    """Return the number of classes of a head, and whether the config or the class of the model says it."""
    listed = keys.config.get("id2label")
    if isinstance(listed, dict) and listed:
        return len(listed), True
    stated = keys.optional("num_labels")
    return stated or TWO, bool(stated) or name.endswith(OF_TWO)
