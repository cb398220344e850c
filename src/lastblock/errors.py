"""Every exception that lastblock raises on purpose, in one tree.

    LastblockError
    ├── ConfigError         a setting is out of range, unknown, or contradicts another
    ├── DataError           texts, labels or a data file cannot be used as they are
    ├── WeightsError        a pretrained decoder or its tokenizer cannot be read exactly
    ├── SavedModelError     a saved classifier's folder is missing, incomplete or damaged
    ├── DownloadError       something could not be fetched, or is not what was expected
    └── MissingExtraError   an optional dependency is not installed

A message is one line that says what is wrong, where (file, row, column, tensor, option) and
what to do about it. The library raises; the command line prints the line and exits with 2;
the server answers with a status. Imports nothing.
"""


class LastblockError(Exception):
    """The root: catch this to catch everything below."""


class ConfigError(LastblockError, ValueError):
    """A setting is out of range, unknown, or contradicts another; names the option."""


class DataError(LastblockError, ValueError):
    """Texts, labels or a data file cannot be used as they are; names file, row and column."""


class WeightsError(LastblockError, ValueError):
    """A pretrained decoder or its tokenizer cannot be read exactly; names file and tensor."""


class SavedModelError(LastblockError, ValueError):
    """A saved classifier's folder is missing, incomplete or damaged; names the file."""


class DownloadError(LastblockError, OSError):
    """Something could not be fetched, or does not have the expected checksum."""


class MissingExtraError(LastblockError, ImportError):
    """An optional dependency is not installed; names the ``pip install`` that mends it."""
