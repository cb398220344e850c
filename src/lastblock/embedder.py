"""TextEmbedder: what a pretrained decoder makes of each text, as features for other models.

Nothing is trained. The frozen pass is the classifier's, and kept where the classifier finds it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import nn

from lastblock.activations import open_store, run_tail
from lastblock.classifier import SequenceClassifier
from lastblock.config import DEFAULT_MODEL, ModelConfig, cache_bytes
from lastblock.data.examples import check_texts
from lastblock.decoder import hub, kernels, loading
from lastblock.errors import ConfigError
from lastblock.recipe import BARE, SAMPLE
from lastblock.runtime import fastest_precision
from lastblock.tokenization.batching import TokenIds
from lastblock.tokenization.tokenizer import Tokenizer

# Where neither is given: the share of the decoder's blocks that is kept, and tokens of a text.
DEPTH_SHARE = 2 / 3
MAX_LENGTH = 512


class TextEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """States of a pretrained decoder at a depth, one a text, as a scikit-learn transformer.

    Args:
        model: a catalog name, a hub id, a folder or a .gguf file.
        depth: blocks to keep, two thirds of them if None; the deepest one's states are taken,
            after the decoder's final norm.
        pooling: "mean" of all tokens' states, or that of the "last" or "first" token.
        max_length: tokens a text is cut to; 512, or what the decoder has room for, if None.
        prompt: words that the decoder reads around each text, which stands for ``{text}``; the
            classifier's own (``recipe.PROMPT``) serve pooling "last" far better than none.
        dtype: of all blocks but the last kept: "auto", "float32", "bfloat16" or
            "int8".
        cache_size: gigabytes on disk for activations, where later calls on the same texts find
            them; 0 for none. If None: LASTBLOCK_CACHE_SIZE, or 2.

    Attributes:
        depth_: blocks kept.
        max_length_: tokens a text is cut to.

    Example:
        >>> model = make_pipeline(TextEmbedder(), LogisticRegression())  # doctest: +SKIP
        >>> model.fit(texts, labels).predict(texts)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        depth: int | None = None,
        pooling: str = "mean",
        max_length: int | None = None,
        prompt: str = BARE,
        dtype: str = "auto",
        cache_size: float | None = None,
    ) -> None:
        self.model = model
        self.depth = depth
        self.pooling = pooling
        self.max_length = max_length
        self.prompt = prompt
        self.dtype = dtype
        self.cache_size = cache_size

    def fit(self, X: Iterable[str], y: Any = None) -> TextEmbedder:
        """Load the decoder; the texts are only looked at for being texts.

        Raises:
            ConfigError: a setting is out of range or does not fit the decoder.
            DataError: X is not one column of texts.
            DownloadError, WeightsError: the decoder cannot be had or read.
        """
        check_texts(X)
        self._check_settings()
        files = hub.resolve(self.model)
        shape = loading.read_config(files.folder)
        depth = self.depth or max(1, round(DEPTH_SHARE * shape.num_hidden_layers))
        tokenizer = Tokenizer.from_pretrained(files.folder)
        frame = tokenizer.frame(self.prompt)
        most = shape.max_position_embeddings - len(frame)
        max_length = self.max_length or min(MAX_LENGTH, most)
        if depth > shape.num_hidden_layers or max_length > most:
            raise ConfigError(
                f"depth {depth} and max_length {max_length}: this decoder has at most "
                f"{shape.num_hidden_layers} and {most}"
            )
        states = SequenceClassifier(
            loading.load_decoder(files.folder, depth=depth),
            1,
            pooling=self.pooling,  # type: ignore[arg-type]
        )
        # Without a head, what the tail says of a text is what a head would see.
        states.head = nn.Identity()  # type: ignore[assignment]
        states.head.out_features = shape.hidden_size
        precision = self.dtype
        if precision == "auto":
            rows, columns = shape.intermediate_size, shape.hidden_size
            precision = fastest_precision(
                rows, columns, int8=True, kernels=kernels.have_fastest_integers()
            )
        sample = torch.from_numpy(frame.around(tokenizer.encode_batch([SAMPLE])[0]))
        kept = cache_bytes(self.cache_size)
        states.set_prefix_precision(
            precision,  # type: ignore[arg-type]
            sample,
            weights=hub.content_of(files) if kept else None,
        )
        states.decoder.begin_with(torch.from_numpy(frame.before))
        self.depth_, self.max_length_ = depth, max_length
        self._n_features_out = shape.hidden_size
        self._files, self._states = files, states
        self._tokenizer, self._frame = tokenizer, frame
        return self

    def transform(self, X: Iterable[str]) -> npt.NDArray[np.float32]:
        """The pooled state of each text, (n, hidden_size), float32."""
        check_is_fitted(self)
        encoded = [self._cut(ids) for ids in self._tokenizer.encode_batch(check_texts(X))]
        # A store for this call alone: what is kept longer is kept on disk.
        store = open_store(self._states.prefix_facts(), self._files, self.cache_size)
        if cache_bytes(self.cache_size):
            store.fill(self._states, encoded)
        return run_tail(self._states, encoded, store).numpy()

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn may know: X is one column of texts, and states are float32."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _check_settings(self) -> None:
        ModelConfig(
            model=self.model,
            depth=self.depth,
            pooling=self.pooling,  # type: ignore[arg-type]
            max_length=self.max_length,
            prompt=self.prompt,
            dtype=self.dtype,  # type: ignore[arg-type]
        )
        if self.pooling == "padded":
            raise ConfigError(
                "pooling 'padded' is the classifier's; give 'mean', 'last' or 'first'"
            )

    def _cut(self, ids: TokenIds) -> TokenIds:
        """At most ``max_length_`` token ids, and at least one, in the prompt."""
        if len(ids) == 0:
            ids = np.array([self._frame.end_of_text], dtype=ids.dtype)
        return self._frame.around(ids[: self.max_length_])
