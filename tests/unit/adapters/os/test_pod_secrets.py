"""Secrets under the two names that the original pipeline has had for them."""

from __future__ import annotations

from sft.adapters.os.pod_secrets import OCI_PULL_SECRET, pod_secrets, second, take_second_spellings


def test_no_variable_comes_from_two_secrets() -> None:
    variables = [found.variable for found in pod_secrets()]
    assert len(variables) == len(set(variables))
    assert {found.secret for found in pod_secrets()} == {
        *("hf-token", "minio-secret", "s3-secret", "oci-pull-secret-model-download", "registry-login")
    }
    assert "s3-secret" not in {found.secret for found in pod_secrets(s3="minio-secret")}


def test_a_login_that_is_missing_is_taken_from_its_second_spelling() -> None:
    there = {second("AWS_ACCESS_KEY_ID"): "id", second("AWS_SECRET_ACCESS_KEY"): "key", second(OCI_PULL_SECRET): "{}"}
    environment = dict(there)
    take_second_spellings(environment)
    assert environment == {**there, "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", OCI_PULL_SECRET: "{}"}


def test_a_login_is_never_half_of_one_secret_and_half_of_another() -> None:
    environment = {
        "AWS_ACCESS_KEY_ID": "mine",
        second("AWS_ACCESS_KEY_ID"): "id",
        second("AWS_SECRET_ACCESS_KEY"): "key",
    }
    before = dict(environment)
    take_second_spellings(environment)
    assert environment == before


def test_an_endpoint_that_is_set_stays_and_an_empty_variable_is_none() -> None:
    environment = {"AWS_ACCESS_KEY_ID": "", "AWS_ENDPOINT_URL": "http://here"}
    environment |= {
        second(name): "there" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")
    }
    take_second_spellings(environment)
    assert (environment["AWS_ACCESS_KEY_ID"], environment["AWS_ENDPOINT_URL"]) == ("there", "http://here")
