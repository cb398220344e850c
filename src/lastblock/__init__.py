"""lastblock: a pretrained decoder becomes a text classifier on an ordinary CPU, in seconds.

    from lastblock import TextClassifier

    classifier = TextClassifier().fit(texts, labels)
    classifier.predict(["You won a prize, call now"])

The public names are resolved when first used, so ``import lastblock`` costs no torch. Nothing
inside the package imports this module.
"""

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

# torch's threads wait for one another by spinning. Where another process wants the processor too,
# they burn the time that it needs, and every step takes many times as long. So they sleep early,
# but not between one operation and the next: on a virtual machine that is shared, who sleeps may be
# woken late. It has to be asked for before torch is imported; see docs/decisions/0005.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

if TYPE_CHECKING:
    from lastblock.checkpoint import load as load
    from lastblock.embedder import TextEmbedder as TextEmbedder
    from lastblock.estimator import TextClassifier as TextClassifier
    from lastblock.finetune import finetune as finetune

    __version__: str

__all__ = ["TextClassifier", "TextEmbedder", "__version__", "finetune", "load"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("lastblock")
    if name == "TextClassifier":
        from lastblock.estimator import TextClassifier

        return TextClassifier
    if name == "TextEmbedder":
        from lastblock.embedder import TextEmbedder

        return TextEmbedder
    if name == "load":
        from lastblock.checkpoint import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """Makes ``lastblock.finetune`` the function, always.

    Importing a submodule binds it to its name in the package, here over the function of the
    same name; a property is the one kind of attribute which that binding cannot replace.
    """

    @property
    def finetune(self) -> Any:
        from lastblock.finetune import finetune

        return finetune

    @finetune.setter
    def finetune(self, submodule: ModuleType) -> None:
        pass


sys.modules[__name__].__class__ = _Package
