import pytest

from mnist_jax.native.library import load


@pytest.fixture(scope="session")
def native() -> None:
    """The kernel, in this process."""
    if problem := load().problem:
        pytest.skip(problem)


@pytest.fixture(autouse=True)
def no_compiler_of_the_users(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
