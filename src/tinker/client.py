"""`TinkerClient`: the Tinker SDK with credentials checked first, a limit on every wait, and errors in a sentence.

The SDK retries a lost connection for minutes and a billing error for an hour, also while it is being constructed;
so every call runs in a thread of its own that is not waited for longer than its limit.
"""

import contextlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from multiprocessing.pool import ThreadPool
from typing import Any, TypeVar

from src.errors import CredentialsError, DownloadError
from src.tinker.addresses import RemoteFile
from src.tinker.credentials import check_credentials
from src.tinker.sdk import import_sdk, result, translated
from src.tinker.served import Served, TokenIds, ask

log = logging.getLogger(__name__)

EXPORT_SECONDS = 3600  # the shortest life that Tinker gives a checkpoint
T = TypeVar("T")


class TinkerClient:
    """A connection to Tinker.

    Args:
        api_key: a Tinker key. None: TINKER_API_KEY, TINKER_CREDENTIAL_CMD or the stored login, in this order.
        timeout: seconds that a question about models or checkpoints may take.
        build_timeout: seconds that an archive or a training client may take to be built.

    Raises:
        CredentialsError: no credentials ("TINKER_API_KEY not found ..."), or a key that cannot be one. No network is
            used to find out.
        MissingExtraError: the SDK (the package `tinker`) is not installed.
    """

    def __init__(self, api_key: str | None = None, *, timeout: float = 60, build_timeout: float = 1800):
        self.credentials = check_credentials(api_key)
        self.timeout, self.build_timeout = timeout, build_timeout
        # Named, not left to the SDK to look up: it shares connections between clients of the same argument, so a key
        # that was replaced in the environment would go unnoticed.
        named = os.environ.get("TINKER_API_KEY") if self.credentials == "TINKER_API_KEY" else None
        self._api_key = api_key or named
        self._sdk = import_sdk()

    def __repr__(self) -> str:
        return f"TinkerClient(credentials from {self.credentials})"

    def get_supported_models(self) -> list[str]:
        """Names of the models that can be trained now, as the service says (this tests the connection).

        Raises:
            CredentialsError: the service refuses the credentials.
            DownloadError: it cannot be reached, does not answer in time, or fails.
        """

        def call() -> list[str]:
            rest = self._rest()
            # Before 0.36 only the other client could be asked.
            client = rest if hasattr(rest, "get_server_capabilities") else self._service()
            capabilities = result(client.get_server_capabilities(), self.timeout)
            return [model.model_name for model in capabilities.supported_models if model.model_name]

        return self._within(self.timeout, "asking for the supported models", call)

    def log_probabilities(self, checkpoint: str, token_ids: TokenIds) -> Served:
        """What a checkpoint gives every token of these texts but the first, and what its base model gives them.

        Args:
            checkpoint: one that Tinker samples from, as `save_weights_for_sampler` or `save_state` returns it.
            token_ids: of each text, two or more, as the base model's tokenizer gives them.

        Raises:
            CredentialsError, DownloadError: as `get_supported_models`; also a checkpoint that is not sampled from.
        """

        def call() -> Served:
            with self._sdk.ServiceClient(api_key=self._api_key) as service:
                return ask(
                    self._sdk, service, checkpoint, token_ids, wait=lambda value: result(value, self.build_timeout)
                )

        return self._within(self.build_timeout, f"asking for log-probabilities of {checkpoint}", call)

    def create_training_client(self, base_model: str, **lora: Any) -> Any:
        """The SDK's `TrainingClient` for a new LoRA on `base_model`, ready to train.

        Args:
            base_model: such as "meta-llama/Llama-3.1-8B".
            lora: rank=32, seed=None, train_mlp=True, train_attn=True, train_unembed=True (the SDK's own).

        Raises:
            CredentialsError, DownloadError: as `get_supported_models`.
        """

        def call() -> Any:
            service = self._service()
            return result(service.create_lora_training_client(base_model, **lora), self.build_timeout)

        return self._within(self.build_timeout, f"creating a training client for {base_model}", call)

    def get_checkpoint_archive_url(self, path: str) -> str:
        """The signed address of a checkpoint's archive: SDK 0.35 and older only.

        It expires and is as good as the weights: do not keep it in a log or file.

        Raises:
            DownloadError: the installed SDK gives no archives, there is no such checkpoint, or as above.
            CredentialsError: the service refuses the credentials.
        """
        return self.archive_file(path, "archive").url

    def archive_file(self, path: str, name: str) -> RemoteFile:
        """As `get_checkpoint_archive_url`, with the moment it expires; the file is called `name`."""
        deadline = time.monotonic() + self.build_timeout

        def call() -> RemoteFile:
            rest = self._rest()
            if not hasattr(rest, "get_checkpoint_archive_url_from_tinker_path"):
                raise DownloadError(
                    f"tinker {self._sdk.__version__} gives no archive of {path}: only versions before 0.36 do. "
                    "Save the weights with save_weights_external and download the path that it returns."
                )
            while True:
                try:
                    found = result(rest.get_checkpoint_archive_url_from_tinker_path(path), self.build_timeout)
                    return RemoteFile(name, found.url, found.expires)
                except self._sdk.InternalServerError as error:
                    # 503 while the archive is being built, which takes longer than the SDK keeps asking.
                    if error.status_code != 503 or time.monotonic() > deadline:
                        raise

        return self._within(self.build_timeout, f"asking for the archive of {path}", call)

    def list_files(self, path: str) -> list[RemoteFile]:
        """The files of "tinker://RUN/external_weights/NAME", each with a signed address of its own.

        Raises:
            DownloadError: another kind of path, no such checkpoint, an SDK before 0.28, or as `get_supported_models`.
            CredentialsError: the service refuses the credentials.
        """
        if "/external_weights/" not in path:
            raise DownloadError(f"{path} has no list of files: only tinker://RUN/external_weights/NAME has one.")

        def call() -> list[RemoteFile]:
            rest = self._rest()
            if not hasattr(rest, "get_external_weights_urls"):
                raise DownloadError(f"tinker {self._sdk.__version__} knows no external weights: update it.")
            found = result(rest.get_external_weights_urls(path), self.timeout)
            return [RemoteFile(name, url, found.expires) for name, url in found.urls.items()]

        return self._within(self.timeout, f"asking for the files of {path}", call)

    @contextlib.contextmanager
    def temporary_export(self, path: str) -> Iterator[Callable[[], list[RemoteFile]]]:
        """Export "tinker://RUN/weights/NAME" for as long as the block runs, and yield what lists its files.

        Tinker starts a training run for it, which costs money. The export is deleted at the end; where that fails,
        or this process is killed, it expires by itself within an hour of the last listing.

        Raises:
            DownloadError, CredentialsError: as `list_files`.
        """
        service = self._within(self.timeout, "opening a training run", self._service)
        try:
            export = self._within(self.build_timeout, f"exporting {path}", lambda: self._export(service, path))
            try:
                yield lambda: self._list_kept(export)
            finally:
                self._delete(export)
        finally:
            self._close(service)

    def checkpoint_info(self, path: str) -> dict[str, Any]:
        """What Tinker has recorded of a checkpoint: base_model, is_lora, lora_rank, train_unembed (None: not said).

        Raises:
            CredentialsError, DownloadError: as `list_files`.
        """

        def call() -> dict[str, Any]:
            recorded = ("base_model", "is_lora", "lora_rank", "train_unembed")
            found = result(self._rest().get_weights_info_by_tinker_path(path), self.timeout)
            return {name: getattr(found, name, None) for name in recorded}

        return self._within(self.timeout, f"asking what {path} is", call)

    def _export(self, service: Any, path: str) -> str:
        training = result(service.create_training_client_from_state(path), self.build_timeout)
        saved = training.save_weights_external(f"download-{uuid.uuid4().hex[:8]}", ttl_seconds=EXPORT_SECONDS)
        return result(saved, self.build_timeout).path

    def _list_kept(self, export: str) -> list[RemoteFile]:
        """The files of an export, which then lives for another hour."""

        def call() -> None:
            result(self._rest().set_checkpoint_ttl_from_tinker_path(export, EXPORT_SECONDS), self.timeout)

        found = self.list_files(export)
        self._within(self.timeout, f"keeping {export} for an hour", call)
        return found

    def _delete(self, export: str) -> None:
        def call() -> None:
            result(self._rest().delete_checkpoint_from_tinker_path(export), self.timeout)

        try:
            self._within(self.timeout, f"deleting {export}", call)
        except (DownloadError, CredentialsError) as error:
            log.warning("The temporary export %s could not be deleted (%s). It expires within an hour.", export, error)

    def _close(self, service: Any) -> None:
        """End the training run; the service ends one whose process is gone by itself."""
        if not hasattr(service, "close"):  # before 0.36
            return
        try:
            self._within(
                self.timeout, "ending the training run", lambda: result(service.close("success"), self.timeout)
            )
        except (DownloadError, CredentialsError) as error:
            log.warning("The training run of the export could not be ended (%s).", error)

    def _service(self) -> Any:
        return self._sdk.ServiceClient(api_key=self._api_key)

    def _rest(self) -> Any:
        if hasattr(self._sdk, "RestClient"):
            return self._sdk.RestClient(api_key=self._api_key)
        return self._service().create_rest_client()

    def _within(self, seconds: float, what: str, call: Callable[[], T]) -> T:
        """Run `call` in a daemon thread and wait for it no longer than this."""
        pool = ThreadPool(1)
        try:
            with translated(self._sdk, self.credentials, what):
                return pool.apply_async(call).get(seconds)
        finally:
            pool.terminate()  # does not wait for a call that hangs
