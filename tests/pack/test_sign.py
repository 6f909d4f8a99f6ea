"""`pack --sign` and `--require-signature`: minisign's files, which the runners check."""

import shutil
import subprocess
import zipfile

import minisign
import pytest
import tiny
from native import AOTI_RUN, ET_RUN, export, run

from exporter.cli import main as cli
from exporter.pack.sign import Signer

RUN = ("--tokens", "5,6,7", "-t", "0", "-n", "8", "--ignore-eos")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sign")
    tiny.make_hf(folder / "m", "llama3.1")
    export(folder / "m", "--quantize", "q4", "--max-seq-length", 64, "--output-pte", folder / "m.pte",
           "--output-aoti-package", folder / "m.pt2", "--output-dso", folder / "m.so")  # fmt: skip
    for name in ("ours", "theirs"):
        pair = minisign.KeyPair.generate()
        (folder / f"{name}.key").write_bytes(bytes(pair.secret_key))
        (folder / f"{name}.pub").write_bytes(bytes(pair.public_key))
    return folder


def refused(runner, model, key, *words: str) -> None:
    result = run(runner, model, "--require-signature", key, *RUN)
    assert result.status == 1
    for word in words:
        assert word in result.error_line()


@pytest.mark.parametrize(("model", "runner"), [("m.pte", ET_RUN), ("m.pt2", AOTI_RUN), ("m.so", AOTI_RUN)])
def test_a_signed_bundle(folder, tmp_path, model, runner):
    assert cli.main(["pack", str(folder / model), "--no-verify", "--sign", str(folder / "ours.key"),
                     "-o", str(tmp_path / "b")]) == 0  # fmt: skip
    bundle = tmp_path / "b"
    expected = run(runner, folder / model, *RUN)
    result = run(bundle / "run.sh", "--require-signature", folder / "ours.pub", *RUN)
    assert result.status == 0 and result.text == expected.text, result.errors
    key = minisign.PublicKey.from_file(folder / "ours.pub")
    for path in (bundle / "MANIFEST.json", *bundle.glob("model.*")):
        if path.suffix != ".minisig":  # what the reference says
            key.verify(path.read_bytes(), minisign.Signature.from_file(f"{path}.minisig"))
    packed = next(path for path in bundle.glob("model.*") if path.name == f"model.{model.partition('.')[2]}")
    refused(runner, packed, folder / "theirs.pub", "is by the key", "give the key of who signed it")
    for path in [packed, *bundle.glob("model.so.json")]:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        refused(runner, packed, folder / "ours.pub", f"{path.name} is not as it was signed")
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    assert run(runner, packed, "--require-signature", folder / "ours.pub", *RUN).status == 0


@pytest.mark.parametrize("name", ["run.sh", "lib/libexecutorch.so", "licenses/pcre2.txt", "bin/et_run"])
def test_every_file_of_a_bundle_counts(folder, tmp_path, name):
    assert cli.main(["pack", str(folder / "m.pte"), "--no-verify", "--sign", str(folder / "ours.key"),
                     "-o", str(tmp_path / "b")]) == 0  # fmt: skip
    with (tmp_path / "b" / name).open("ab") as file:
        file.write(b"\n")
    refused(tmp_path / "b" / "bin" / "et_run", tmp_path / "b" / "model.pte", folder / "ours.pub",
            f"{name} is not as it was signed")  # fmt: skip
    (tmp_path / "b" / name).unlink()
    if name not in ("bin/et_run", "lib/libexecutorch.so"):
        refused(tmp_path / "b" / "bin" / "et_run", tmp_path / "b" / "model.pte", folder / "ours.pub",
                f"{name} is missing")  # fmt: skip


def test_a_runner_that_looks_for_another_manifest(folder, tmp_path):
    """A bit of the name flipped, as damage may do it: the artifact's own signature does not stand in."""
    bundle = tmp_path / "b"
    assert cli.main(["pack", str(folder / "m.pte"), "--no-verify", "--sign", str(folder / "ours.key"),
                     "-o", str(bundle)]) == 0  # fmt: skip
    program = bundle / "bin" / "et_run"
    data = program.read_bytes()
    assert data.count(b"MANIFEST.json\0") == 1
    program.write_bytes(data.replace(b"MANIFEST.json\0", b"MAOIFEST.json\0"))
    refused(program, bundle / "model.pte", folder / "ours.pub", "signed manifest is missing")


def test_a_library_by_any_name_is_checked_with_its_metadata(folder, tmp_path):
    for name, source in {"model": "m.so", "model.json": "m.so.json"}.items():
        shutil.copy(folder / source, tmp_path / name)
    signer = Signer(folder / "ours.key")
    signer.sign(tmp_path / "model", "model")
    refused(AOTI_RUN, tmp_path / "model", folder / "ours.pub", "model.json.minisig")
    signer.sign(tmp_path / "model.json", "model.json")
    result = run(AOTI_RUN, tmp_path / "model", "--require-signature", folder / "ours.pub", *RUN)
    assert result.status == 0, result.errors


def test_the_same_bytes_every_time(folder, tmp_path):
    outputs = [tmp_path / f"{i}" / "b.zip" for i in range(2)]
    for output in outputs:
        output.parent.mkdir()
        assert cli.main(["pack", str(folder / "m.pte"), "--no-verify", "--sign", str(folder / "ours.key"),
                         "-o", str(output)]) == 0  # fmt: skip
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    with zipfile.ZipFile(outputs[0]) as archive:
        assert "b/MANIFEST.json.minisig" in archive.namelist()


def test_every_bit_of_a_signature_counts(folder, tmp_path):
    model = tmp_path / "m.pte"
    shutil.copy(folder / "m.pte", model)
    Signer(folder / "ours.key").sign(model, model.name)
    signature = tmp_path / "m.pte.minisig"
    whole = signature.read_bytes()
    comment_ends = whole.index(b"\n")  # what minisign calls untrusted is no part of what is signed
    for bit in range(8 * (comment_ends + 1), 8 * len(whole), 7):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        if bytes(data).splitlines() == whole.splitlines():
            continue
        signature.write_bytes(data)
        done = subprocess.run([ET_RUN, model, "--require-signature", folder / "ours.pub", "--tokenize"],
                              input=b"", capture_output=True)  # fmt: skip
        assert done.returncode == 1, (bit, data)


def test_both_forms_and_a_key_of_one_line(folder, tmp_path):
    """minisign before 0.6 signed the file itself; a key is also given as its second line alone."""
    model = tmp_path / "m.pte"
    shutil.copy(folder / "m.pte", model)
    secret = minisign.SecretKey.from_file(folder / "ours.key")
    key = tmp_path / "one-line.pub"
    key.write_text((folder / "ours.pub").read_text().splitlines()[1])
    for prehash in (False, True):
        signature = secret.sign(model.read_bytes(), prehash=prehash)
        (tmp_path / "m.pte.minisig").write_bytes(bytes(signature))
        assert run(ET_RUN, model, "--require-signature", key, *RUN).status == 0


def test_what_cannot_be_checked(folder, tmp_path):
    model = folder / "m.pte"
    refused(ET_RUN, model, folder / "ours.pub", "m.pte.minisig", "pack --sign")
    refused(ET_RUN, model, folder / "none.pub", "cannot read the public key")
    refused(ET_RUN, model, folder / "ours.key", "is no public key of minisign's")
    refused(ET_RUN, model, model, "is no public key")
    (tmp_path / "empty").write_bytes(b"")
    refused(ET_RUN, model, tmp_path / "empty", "cannot read the public key")
    assert run(ET_RUN, model, "--require-signature", "", *RUN).status == 2


def test_what_cannot_sign(folder, tmp_path, capsys, monkeypatch):
    def said(key, **variables) -> str:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        words = ["pack", folder / "m.pte", "--no-verify", "--sign", key, "-o", tmp_path / "b"]
        assert cli.main([str(word) for word in words]) == 1
        return capsys.readouterr().err.splitlines()[-1]

    assert "none.key" in said(folder / "none.key")
    assert "cannot be used" in said(folder / "ours.pub")
    assert "cannot be used" in said(folder / "m.pte")
    locked = minisign.KeyPair.generate().secret_key
    public = minisign.PublicKey.from_secret_key(locked)
    locked.encrypt("secret")
    (tmp_path / "locked.key").write_bytes(bytes(locked))
    monkeypatch.setattr("sys.stdin", open("/dev/null"))
    assert "set MINISIGN_PASSWORD" in said(tmp_path / "locked.key")
    assert "cannot be used" in said(tmp_path / "locked.key", MINISIGN_PASSWORD="wrong")
    monkeypatch.setenv("MINISIGN_PASSWORD", "secret")
    Signer(tmp_path / "locked.key").sign(tmp_path / "locked.key", "x")
    public.verify((tmp_path / "locked.key").read_bytes(),
                  minisign.Signature.from_file(tmp_path / "locked.key.minisig"))  # fmt: skip
    assert not (tmp_path / "b").exists()
