"""The builder on Ray: the same dataset as the local executor's, also when the build is killed on the way."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dataset_builder.build import build
from dataset_builder.executor import LocalExecutor, Worker, find_executor
from recipes import ExecutorConfig, RecipeError

ray = pytest.importorskip("ray")
ROOT = Path(__file__).parents[2]
KILLS = 5


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, for this module; its workers find the tests' stand-ins."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    context = ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield context.address_info["address"]
    ray.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


class Doubler(Worker):
    def load(self):
        self.loaded = True

    def answer(self, batch):
        assert self.loaded
        if 13 in batch:
            raise RecipeError("item 13: cannot be doubled")
        return [2 * item for item in batch]


class Client(Worker):
    in_process = True

    def load(self):
        self.loaded_in = os.getpid()

    def answer(self, batch):
        return [self.loaded_in] * len(batch)


def test_a_client_of_a_server_runs_in_the_building_process(cluster):
    executor = find_executor(ExecutorConfig(name="ray", actors=2))
    assert list(executor.map(Client(), [[1, 2], [3]])) == [([1, 2], [os.getpid()] * 2), ([3], [os.getpid()])]


def test_every_batch_comes_back_with_its_results(cluster):
    batches = [[n, n + 1] for n in range(20, 60, 2)]
    executor = find_executor(ExecutorConfig(name="ray", actors=2))
    expected = sorted(LocalExecutor().map(Doubler(), batches))
    assert sorted(executor.map(Doubler(), batches)) == expected == [(b, [2 * n for n in b]) for b in batches]
    assert list(executor.map(Doubler(), [])) == []


def test_an_error_in_an_actor_ends_the_build_with_its_own_words(cluster):
    executor = find_executor(ExecutorConfig(name="ray", actors=1))
    with pytest.raises(RecipeError, match=r"^item 13: cannot be doubled$"):
        list(executor.map(Doubler(), [[1], [13]]))


class Mortal(Worker):
    def load(self):
        pass

    def answer(self, batch):
        if 13 in batch:
            os._exit(1)
        return batch


class Unpicklable(Exception):
    def __init__(self, *, lock):
        super().__init__("no lock")
        self.lock = lock


class Locked(Mortal):
    def answer(self, batch):
        raise Unpicklable(lock=threading.Lock())


@pytest.mark.slow
def test_a_batch_that_kills_its_actor_ends_the_build_in_one_line(cluster):
    executor = find_executor(ExecutorConfig(name="ray", actors=1))
    with pytest.raises(RecipeError, match=r"^executor: the actors of Ray died again and again .* is kept$"):
        list(executor.map(Mortal(), [[1], [13]]))


def test_an_error_that_cannot_be_pickled_is_told_by_its_words(cluster):
    executor = find_executor(ExecutorConfig(name="ray", actors=1))
    with pytest.raises(RuntimeError, match=r"^Unpicklable: no lock\n"):
        list(executor.map(Locked(), [[1]]))


def test_what_an_actor_needs_and_the_cluster_has_not_is_an_error(cluster):
    with pytest.raises(RecipeError, match=r"executor\.cpus_per_actor: 64, and the cluster has 3 CPUs"):
        find_executor(ExecutorConfig(name="ray", cpus_per_actor=64))


@pytest.mark.slow
def test_the_dataset_is_that_of_the_local_executor_byte_for_byte(cluster, built, recipe, tmp_path):
    recipe.executor = ExecutorConfig(name="ray", actors=2)
    assert contents(build(recipe, tmp_path)) == contents(built / "dataset")


# Seven builds and as many starts of Ray's workers: some 220 s on two busy cores, more beside other work.
@pytest.mark.ray_kills
@pytest.mark.timeout(3000)
def test_five_kills_at_random_moments_change_no_byte(cluster, built, tiny_model, taxonomy_file, tmp_path):
    straight = contents(built / "dataset")
    script = (
        "from pathlib import Path\nfrom recipes import ExecutorConfig\n"
        "from tests.dataset_builder.builder_stand_ins import build, small_recipe\n"
        f"recipe = small_recipe({str(tiny_model)!r}, {str(taxonomy_file)!r})\n"
        f"recipe.executor = ExecutorConfig(name='ray', actors=2, address={cluster!r})\n"
        "print('begun', flush=True)\nimport sys\nbuild(recipe, Path(sys.argv[1]))\n"
    )

    said = (tmp_path / "said.txt").open("ab")

    def finish(child):
        # Far above what was ever measured; what a child said is worth more than the number of its exit status.
        assert child.wait(900) == 0, (tmp_path / "said.txt").read_text("utf8", "replace")[-4000:]

    def start(out):
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(out)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=said,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert child.stdout.readline() == b"begun\n", (tmp_path / "said.txt").read_text("utf8", "replace")[-4000:]
        return child

    began = time.monotonic()
    finish(start(tmp_path / "whole"))
    whole = time.monotonic() - began
    moments, out, kills = random.Random(0), tmp_path / "out", 0
    while kills < KILLS:
        child = start(out)
        try:
            child.wait(moments.uniform(0, whole))
            finish(child)
            assert contents(out / "dataset") == straight
            shutil.rmtree(out)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
            kills += 1
    finish(start(out))
    said.close()
    assert contents(out / "dataset") == straight
