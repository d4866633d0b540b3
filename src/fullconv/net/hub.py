"""The Hugging Face Hub: model folders fetched from it by their id, and put there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fullconv.base.errors import FullconvError, WorkFailedError, one_line
from fullconv.net.card import CARD, card, with_licence
from fullconv.net.folder import CONFIG, METRICS, WEIGHTS, read_config

DEFAULT_BRANCH = "main"


@dataclass(frozen=True)
class Hub:
    """The Hub, or a server that speaks as it does.

    Attributes:
        token: of the user; None: that which `hf auth login` or HF_TOKEN gave.
        endpoint: its address; None: what HF_ENDPOINT says, or the Hub's own.
    """

    token: str | None = None
    endpoint: str | None = None

    def fetched(self, model: str, revision: str | None = None) -> Path:
        """Return the folder of a model, in the cache of the Hub's client; fetched if need be.

        Its config.json comes first, and is judged before its weights are asked for. Nothing else
        is fetched: no code, and no pickled weights.

        Args:
            model: its id, "owner/name".
            revision: a branch, tag or commit; None: the main branch.

        Raises:
            FullconvError: it is not to be had, or is no model of fullconv.
        """
        folder = self._snapshot(model, revision, CONFIG)
        self._require(folder, CONFIG, model)
        read_config(folder)
        commit = folder.name  # of the same revision, should it move meanwhile
        folder = self._snapshot(model, commit, WEIGHTS)
        self._require(folder, WEIGHTS, model)
        return folder

    def push(
        self,
        folder: Path,
        model: str,
        *,
        message: str = "Upload a model of fullconv",
        private: bool | None = None,
        branch: str | None = None,
        licence: str | None = None,
    ) -> str:
        """Put a model folder on the Hub, in one commit: weights, config, metrics and model card.

        A folder that has no card gets one. Nothing else of the folder goes along.

        Args:
            folder: a model folder.
            model: the id that it gets, "owner/name"; made if it isn't there.
            message: of the commit.
            private: whether only its owner sees it; None: as it is, or as the owner's new ones are.
            branch: where the commit goes; None: the main branch. It is made if it isn't there.
            licence: the Hub's word for the licence, such as "apache-2.0", noted in the card.

        Returns:
            The address of the commit.

        Raises:
            FullconvError: the folder is no model folder.
            WorkFailedError: the Hub can't be reached, or refuses.
        """
        from huggingface_hub import CommitOperationAdd, HfApi

        config = read_config(folder)
        if not (folder / WEIGHTS).is_file():
            raise FullconvError(f"{folder / WEIGHTS}: missing; there is no model to push")
        known = folder / CARD
        text = known.read_text(encoding="utf-8") if known.is_file() else card(config)
        text = text if licence is None else with_licence(text, licence)
        added = [CommitOperationAdd(CARD, text.encode())]
        for name in (CONFIG, METRICS, WEIGHTS):
            if (folder / name).is_file():
                added.append(CommitOperationAdd(name, folder / name))
        with _pushing(model):
            api = HfApi(self.endpoint, self.token, library_name="fullconv")
            api.create_repo(model, private=private, exist_ok=True)
            if branch not in (None, DEFAULT_BRANCH):
                api.create_branch(model, branch=branch, exist_ok=True)
            done = api.create_commit(model, added, commit_message=message, revision=branch)
        return str(done.commit_url)

    def _snapshot(self, model: str, revision: str | None, file: str) -> Path:
        from huggingface_hub import snapshot_download

        with _fetching(model, revision):
            return Path(
                snapshot_download(
                    model,
                    revision=revision,
                    allow_patterns=[file],
                    token=self.token,
                    endpoint=self.endpoint,
                    library_name="fullconv",
                )
            )

    def _require(self, folder: Path, file: str, model: str) -> None:
        if not (folder / file).is_file():
            raise FullconvError(
                f"{model}: no model of fullconv: it has no {file} on the Hugging Face Hub, or that "
                "is not in the cache and the Hub can't be reached"
            )


def find_folder(model: str, hub: Hub = Hub(), revision: str | None = None) -> Path:
    """Return a model's folder, fetched if it is one of the Hub.

    Args:
        model: a folder or, where there is none of that name, an id of the Hub: "owner/name" or
            "owner/name@revision".
        hub: where it is fetched from.
        revision: of the model on the Hub: a branch, tag or commit.

    Raises:
        FullconvError: there is none, or the Hub can't be reached.
    """
    folder = Path(model)
    if folder.exists():
        if not folder.is_dir():
            raise FullconvError(f"{folder}: a model is a folder with {CONFIG} and {WEIGHTS}")
        return folder
    name, _, tail = model.partition("@")
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise FullconvError(f"{model}: no such model folder")
    return hub.fetched(name, revision or tail or None)


@contextmanager
def _fetching(model: str, revision: str | None) -> Iterator[None]:
    """Turn any failure of the Hub's client into one line."""
    try:
        yield
    except Exception as error:  # of one of three HTTP libraries, as the client's version has it
        of = f" of revision {revision}" if revision else ""
        raise FullconvError(
            f"{model}: no such folder, and not to be had{of} from the Hugging Face Hub "
            f"({_reason(error)})"
        ) from error


@contextmanager
def _pushing(model: str) -> Iterator[None]:
    """Turn any failure of the Hub's client into one line."""
    try:
        yield
    except Exception as error:  # see `_fetching`
        raise WorkFailedError(
            f"{model}: could not be put on the Hugging Face Hub ({_reason(error)}); log in with "
            "`hf auth login`, or set HF_TOKEN, as one who may write there"
        ) from error


def _reason(error: Exception) -> str:
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    return one_line(error).split(" For more details")[0]
