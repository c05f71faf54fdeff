"""Base models in a real OCI registry: what is one, what comes of it, and what a hostile image can't do."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sft.adapters import oci_model
from sft.adapters.os.pod_secrets import OCI_PULL_SECRET
from sft.adapters.retry import RetryPolicy
from sft.adapters.upload import oci_client
from sft.adapters.upload.oci_client import MANIFEST, Repository, digest_of
from sft.artifacts import ModelArtifact, hash_files
from sft.config.schema import ModelConfig
from sft.errors import ConfigError, StageError
from sft.progress import Progress
from sft.stages.model import ModelInputs, model, source_version
from tests.servers import oci
from tests.servers.scripted import Answer, Request, serving
from tests.support.uploading import FILES, bring, noise, package

TAR = "application/vnd.oci.image.layer.v1.tar"
CONFIG = b"{}"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that anybody may push to."""
    with oci.registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and no login of this machine's."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.delenv("OCI_USERNAME", raising=False)
    monkeypatch.delenv(OCI_PULL_SECRET, raising=False)
    monkeypatch.setattr(oci_client, "_RETRY", RetryPolicy(max_attempts=2, first_wait_seconds=0.0))
    return tmp_path / "hf"


def layer(files: Mapping[str, bytes | tarfile.TarInfo]) -> bytes:
    """An archive of files, and of members that are something else."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def push(host: str, name: str, layers: Sequence[tuple[str, bytes]], folder: Path, tag: str = "latest") -> str:
    """Push an image of layers, each with its media type; the digest of its manifest."""
    repository, descriptors = Repository(host, name), []
    for kind, content in [("application/vnd.oci.image.config.v1+json", CONFIG), *layers]:
        blob = folder / "blob"
        blob.write_bytes(content)
        repository.push(blob, digest_of(content), lambda _: None)
        descriptors.append({"mediaType": kind, "digest": digest_of(content), "size": len(content)})
    facts = {"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptors[0], "layers": descriptors[1:]}
    manifest = json.dumps(facts).encode()
    repository.tag(manifest, tag)
    return digest_of(manifest)


def fetch(uri: str) -> tuple[Path, str]:
    return oci_model.fetch(uri, lambda _: None)


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_an_image_is_the_files_under_models_of_all_its_layers(host: str, tmp_path: Path) -> None:
    base = layer(
        {"etc/passwd": b"root", "models/config.json": b"old", "models/gone.bin": b"1", "./models/a/b.txt": b"2"}
    )
    top = layer({"models/config.json": b"{}", "models/.wh.gone.bin": b"", "/models/model.safetensors": b"weights"})
    pushed = push(host, "us/car", [(TAR, base), (f"{TAR}+gzip", gzip.compress(top))], tmp_path)
    folder, digest = fetch(f"oci://{host}/us/car")
    assert digest == pushed
    assert everything(folder) == {"config.json", "a/b.txt", "model.safetensors"}
    assert (folder / "config.json").read_bytes() == b"{}"


def test_a_model_in_a_folder_of_its_own_under_models_is_found(host: str, tmp_path: Path) -> None:
    push(host, "us/deep", [(TAR, layer({"models/granite/config.json": b"{}", "models/README": b"x"}))], tmp_path)
    assert everything(fetch(f"oci://{host}/us/deep")[0]) == {"config.json"}


def test_what_was_uploaded_comes_back_file_by_file(host: str, tmp_path: Path) -> None:
    packaged = package(tmp_path / "package")
    made, _ = bring(f"oci://{host}/org/speller:1", packaged, tmp_path / "out")
    folder, digest = fetch(f"oci://{host}/org/speller:1")
    assert hash_files(folder) == hash_files(packaged.root / "model")
    assert made.uri.endswith(f"@{digest}")
    assert everything(folder) == set(FILES)


def test_an_index_leads_to_the_image_of_this_kind_of_machine(host: str, tmp_path: Path) -> None:
    digests = {
        arch: push(host, "us/many", [(TAR, layer({"models/config.json": arch.encode()}))], tmp_path, arch)
        for arch in ("arm64", "amd64")
    }
    manifests = [
        {"mediaType": MANIFEST, "digest": digest, "size": 1, "platform": {"os": "linux", "architecture": arch}}
        for arch, digest in digests.items()
    ]
    repository = Repository(host, "us/many")
    sizes = {digest: len(repository.find(digest)[1]) for digest in digests.values()}
    index = {"schemaVersion": 2, "mediaType": oci_client.INDEX}
    index["manifests"] = [{**manifest, "size": sizes[str(manifest["digest"])]} for manifest in manifests]  # type: ignore[assignment]
    repository._ask(
        "PUT", repository._at("manifests/latest"), {201}, {"Content-Type": oci_client.INDEX}, json.dumps(index).encode()
    )
    assert (fetch(f"oci://{host}/us/many")[0] / "config.json").read_bytes() == b"amd64"


def test_a_digest_that_is_there_is_not_asked_for_again_and_a_tag_that_moved_is(host: str, tmp_path: Path) -> None:
    first = push(host, "us/moving", [(TAR, layer({"models/config.json": b"1"}))], tmp_path)
    before, _ = fetch(f"oci://{host}/us/moving:latest")
    second = push(host, "us/moving", [(TAR, layer({"models/config.json": b"2"}))], tmp_path)
    after, digest = fetch(f"oci://{host}/us/moving:latest")
    assert (first != second, digest) == (True, second)
    assert (before / "config.json").read_bytes() == b"1"
    assert (after / "config.json").read_bytes() == b"2"
    assert fetch(f"oci://127.0.0.1:9/us/moving@{first}")[0] == before


@pytest.mark.parametrize("name", ["models/../../out", "models/a/../../../out", "/models/../out"])
def test_a_name_that_leads_out_of_the_model_is_refused(name: str, host: str, tmp_path: Path, cache: Path) -> None:
    push(host, "us/hostile", [(TAR, layer({"models/config.json": b"{}", name: b"x"}))], tmp_path)
    with pytest.raises(StageError, match="would lie outside of the model"):
        fetch(f"oci://{host}/us/hostile")
    assert not list(tmp_path.rglob("out"))
    assert everything(cache) == {f"hub/oci/tags/{host.replace(':', '-')}--us--hostile--latest.json"}


def test_a_deletion_outside_of_the_model_is_refused(host: str, tmp_path: Path) -> None:
    push(host, "us/deleting", [(TAR, layer({"models/config.json": b"{}", "models/.wh...": b""}))], tmp_path)
    with pytest.raises(StageError, match="would lie outside of the model"):
        fetch(f"oci://{host}/us/deleting")


@pytest.mark.parametrize("name", ["models/weights", "usr/weights"])
def test_a_layer_that_unfolds_without_end_is_refused(
    name: str, host: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oci_model, "_LEAST_ROOM", 1_000_000)
    bomb = gzip.compress(layer({"models/config.json": b"{}", name: bytes(2_000_000)}))
    push(host, "us/bomb", [(f"{TAR}+gzip", bomb)], tmp_path)
    with pytest.raises(StageError, match="unfolds to more than 10 times its size"):
        fetch(f"oci://{host}/us/bomb")
    assert everything(cache) == {f"hub/oci/tags/{host.replace(':', '-')}--us--bomb--latest.json"}


def test_a_title_that_leads_out_of_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="would lie outside of the model"):
        scripted({"../../out": b"x", "config.json": b"{}"})
    assert not list(tmp_path.rglob("out"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(kind: bytes, host: str, tmp_path: Path) -> None:
    member = tarfile.TarInfo("models/link")
    member.type, member.linkname = kind, "/etc/passwd"
    push(host, "us/links", [(TAR, layer({"models/config.json": b"{}", "link": member}))], tmp_path)
    with pytest.raises(StageError, match="/models/link is a link or a device"):
        fetch(f"oci://{host}/us/links")


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([(TAR, layer({"app/main": b"1"}))], r"no config\.json under /models"),
        (
            [(TAR, layer({"models/a/config.json": b"", "models/b/config.json": b""}))],
            "several models under /models: a, b",
        ),
        ([(TAR, b"no archive")], "a layer is no archive"),
        ([(f"{TAR}+gzip", gzip.compress(layer({"models/config.json": noise(9000)}))[:-2000])], "a layer is no archive"),
        ([(TAR, layer({"models/a": b"1", "models/a/b": b"2"}))], "a file where another has a folder"),
        ([(f"{TAR}+zstd", b"x")], r"layers of application/vnd\.oci\.image\.layer\.v1\.tar\+zstd"),
        ([], "no layer with files"),
    ],
)
def test_what_is_no_model_is_said(layers: list[tuple[str, bytes]], said: str, host: str, tmp_path: Path) -> None:
    push(host, "us/none", layers, tmp_path)
    with pytest.raises(StageError, match=said):
        fetch(f"oci://{host}/us/none")


def scripted(files: Mapping[str, bytes], changed: Mapping[str, bytes] | None = None, *, manifest: bytes = b"") -> Path:
    """Fetch an artifact of files from a registry of ours, which sends other bytes for the `changed` ones."""
    blobs = {digest_of(content): (changed or {}).get(name, content) for name, content in files.items()}
    layers: list[dict[str, Any]] = [
        {
            "mediaType": "application/vnd.cncf.model.weight.v1.raw",
            "digest": digest_of(content),
            "size": len(content),
            "annotations": {"org.opencontainers.image.title": name},
        }
        for name, content in files.items()
    ]
    text = manifest or json.dumps({"schemaVersion": 2, "layers": layers}).encode()

    def answer(request: Request) -> Answer:
        last = request.path.rpartition("/")[2]
        return Answer(200, blobs[last]) if last in blobs else Answer(200, text)

    with serving(answer) as server:
        return fetch(f"oci://{server.host}/us/model")[0]


def test_files_of_an_artifact_are_taken_as_they_are() -> None:
    assert everything(scripted({"config.json": b"{}", "sub/a.bin": b"12"})) == {"config.json", "sub/a.bin"}


@pytest.mark.parametrize("sent", [b"{]", b"{", b"{}{}{}"])
def test_bytes_that_are_not_those_of_the_manifest_are_never_kept(sent: bytes, cache: Path) -> None:
    with pytest.raises(StageError, match="sends something else than sha256:"):
        scripted({"config.json": b"{}"}, {"config.json": sent})
    assert not list(cache.rglob("config.json"))


def test_a_manifest_that_is_not_the_one_asked_for_is_refused() -> None:
    with serving(lambda _: Answer(200, b"{}")) as server, pytest.raises(StageError, match="sends another manifest"):
        fetch(f"oci://{server.host}/us/model@sha256:{'0' * 64}")


@pytest.mark.parametrize("text", [b"[]", b"{", b'{"layers": 1}', b'{"manifests": []}', b'{"layers": [{}]}'])
def test_a_malformed_manifest_is_said(text: bytes) -> None:
    with pytest.raises(StageError, match="its manifest is malformed"):
        scripted({}, manifest=text)


@pytest.mark.parametrize(
    "uri", ["oci://host", "oci://host/UPPER", "oci://host/a/../b", "oci://u:p@host/a", "oci://h/a@x"]
)
def test_an_address_that_is_none_is_refused_with_its_form(uri: str) -> None:
    with pytest.raises(StageError, match=r"write oci://host\[:port\]/repository"):
        oci_model.parse(uri)


def test_a_pull_secret_opens_a_registry_and_is_not_in_what_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with oci.registry(tmp_path / "locked", locked=True) as locked:
        monkeypatch.setenv("OCI_USERNAME", oci.USERNAME)
        monkeypatch.setenv("OCI_PASSWORD", oci.PASSWORD)
        push(locked, "us/secret", [(TAR, layer({"models/config.json": b"{}"}))], tmp_path)
        monkeypatch.delenv("OCI_USERNAME")
        with pytest.raises(StageError, match="for a user that may pull"):
            fetch(f"oci://{locked}/us/secret")
        login = base64.b64encode(f"{oci.USERNAME}:{oci.PASSWORD}".encode()).decode()
        monkeypatch.setenv(OCI_PULL_SECRET, json.dumps({"auths": {locked: {"auth": login}}}))
        assert everything(fetch(f"oci://{locked}/us/secret")[0]) == {"config.json"}
        monkeypatch.setenv(OCI_PULL_SECRET, "{nothing")
        with pytest.raises(StageError, match=r"is not the text of a Docker config\.json") as caught:
            fetch(f"oci://{locked}/us/secret")
    assert "nothing" not in str(caught.value)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_model_stage_takes_an_image_and_records_its_digest(
    host: str, tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    files = {f"models/{path.name}": path.read_bytes() for path in tiny_model.model_dir.iterdir() if path.is_file()}
    digest = push(host, "us/tiny", [(f"{TAR}+gzip", gzip.compress(layer(files)))], tmp_path, "v1")
    cfg = ModelConfig(name_or_path=f"oci://{host}/us/tiny:v1")
    assert source_version(cfg) == digest
    out = tmp_path / "out"
    out.mkdir()
    made = model(cfg, ModelInputs(dataset=None), out, Progress(quiet=True))
    assert (made.source, made.revision) == (f"oci://{host}/us/tiny:v1", digest)
    assert made.num_parameters == tiny_model.num_parameters
    weights = hashlib.sha256((made.model_dir / "model.safetensors").read_bytes()).hexdigest()
    assert json.loads((out / "files.json").read_text())["model.safetensors"] == weights
    with pytest.raises(ConfigError, match=r"model.revision=v2: is for a model on the hub"):
        source_version(ModelConfig(name_or_path=f"oci://{host}/us/tiny:v1", revision="v2"))


def test_a_claim_that_is_not_mounted_is_said() -> None:
    with pytest.raises(StageError, match=r"no folder /no-such-claim/models[\s\S]*mount the claim at /<claim>"):
        source_version(ModelConfig(name_or_path="pvc://no-such-claim/models"))
