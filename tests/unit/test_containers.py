"""Containers: the words before a command, and what is refused."""

from __future__ import annotations

import pickle
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ips_dask_cluster.containers import (
    SCRATCH,
    Apptainer,
    Charliecloud,
    Container,
    PodmanHPC,
    Shifter,
    checked,
    scratch_inside,
    shell_prefix,
    shifter_arguments,
)
from ips_dask_cluster.errors import ClusterError
from ips_dask_cluster.slurm.diagnosis import diagnose

ALL = (Shifter, PodmanHPC, Apptainer, Charliecloud)
VISIBLE = ("/runs/me", SCRATCH)
VOLUMES = ("/scratch/it's:/data", "/c:/d:ro")
EXTRA: dict[str, Any] = {"volumes": VOLUMES, "arguments": ("-x", "$Y"), "env": {"A": "1 2"}}


@pytest.mark.parametrize(
    ("container", "words"),
    [
        (Shifter(), "shifter --env=PYTHONNOUSERSITE=1"),
        (
            Shifter("docker:me/code:1", **EXTRA),
            'shifter --image=docker:me/code:1 "--volume=/scratch/it\'s:/data" --volume=/c:/d:ro'
            " --env=PYTHONNOUSERSITE=1 '--env=A=1 2' -x '$Y'",
        ),
        (
            PodmanHPC("me/code:1"),
            "podman-hpc run --rm --interactive --network=host --pid=host --env-host"
            " --env=PYTHONNOUSERSITE=1 me/code:1",
        ),
        (
            PodmanHPC("me/code:1", gpu=True, **EXTRA),
            "podman-hpc run --rm --interactive --network=host --pid=host --env-host"
            ' "--volume=/scratch/it\'s:/data" --volume=/c:/d:ro'
            " --env=PYTHONNOUSERSITE=1 '--env=A=1 2' --gpu -x '$Y' me/code:1",
        ),
        (Apptainer("code.sif"), "apptainer exec --env=PYTHONNOUSERSITE=1 code.sif"),
        (
            Apptainer("/i/code.sif", gpu=True, rocm=True, **EXTRA),
            'apptainer exec "--bind=/scratch/it\'s:/data" --bind=/c:/d:ro'
            " --env=PYTHONNOUSERSITE=1 '--env=A=1 2' --nv --rocm -x '$Y' /i/code.sif",
        ),
        (
            Charliecloud("/i/root"),
            "ch-run --env-no-expand --set-env=PYTHONNOUSERSITE=1 /i/root --",
        ),
        (
            Charliecloud(Path("/i/root"), write=True, **EXTRA),  # type: ignore[arg-type]
            'ch-run --write --env-no-expand "--bind=/scratch/it\'s:/data" --bind=/c:/d:ro'
            " --set-env=PYTHONNOUSERSITE=1 '--set-env=A=1 2' -x '$Y' /i/root --",
        ),
    ],
)
def test_prefix(container: Container, words: str) -> None:
    assert container.prefix() == shlex.split(words)


@pytest.mark.parametrize(
    ("container", "text"),
    [
        (Shifter("i:1"), "shifter --image=i:1 --env=PYTHONNOUSERSITE=1"),
        (
            PodmanHPC("i:1"),
            "podman-hpc run --rm --interactive --network=host --pid=host --env-host"
            ' --volume="$scratch":"$scratch" --volume=/runs/me:/runs/me'
            " --env=PYTHONNOUSERSITE=1 --workdir=/runs/me i:1",
        ),
        (
            Apptainer("i.sif"),
            'apptainer exec --bind="$scratch":"$scratch" --bind=/runs/me:/runs/me'
            " --env=PYTHONNOUSERSITE=1 --pwd=/runs/me i.sif",
        ),
        (
            Charliecloud("/i"),
            'env TMPDIR="$temporary" ch-run --env-no-expand --bind=/runs/me:/runs/me'
            " --set-env=PYTHONNOUSERSITE=1 --cd=/runs/me /i --",
        ),
    ],
)
def test_text_in_a_script_shows_what_must_be_visible(container: Container, text: str) -> None:
    assert shell_prefix(container, VISIBLE, "/runs/me") == text


@pytest.mark.parametrize(
    ("visible", "volumes", "bound"),
    [
        (("/a/b", "/a", "/a/b/c", "/ab"), (), ["/a", "/ab"]),
        (("/a/b", "/c"), ("/a:/a", "/x:/c"), ["/c"]),
        (("/a/b", "/c"), ("/a:/a:ro", "/c/d:/c/d"), ["/c"]),
        (("/x/y",), ("/x:/c",), ["/x/y"]),
        (("/", "/a"), (), ["/a"]),
        (("/a", "/a"), (), ["/a"]),
    ],
)
def test_each_directory_is_bound_once(
    visible: Sequence[str], volumes: Sequence[str], bound: Sequence[str]
) -> None:
    words = Apptainer("i", volumes).prefix(visible)
    expected = [*volumes, *(f"{path}:{path}" for path in bound)]
    assert [word[7:] for word in words if word.startswith("--bind=")] == expected


def test_shell_sees_every_word_as_it_is_and_the_scratch_directory_of_the_node() -> None:
    container = Apptainer("i", ("/it's:/$HOME",), "-x 'a b'", env={"Q": '"`'})
    text = shell_prefix(container, ["/a b", SCRATCH], "/a b")
    script = f"scratch='/tmp/it is'; printf '%s\\0' {text}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=10)
    assert done.stdout.split("\0")[:-1] == [
        *("apptainer", "exec", "--bind=/it's:/$HOME", "--bind=/tmp/it is:/tmp/it is"),
        *("--bind=/a b:/a b", "--env=PYTHONNOUSERSITE=1", '--env=Q="`', "--pwd=/a b"),
        *("-x", "a b", "i"),
    ]


def test_scratch_directory_is_below_tmp_where_the_tool_puts_it_there() -> None:
    assert scratch_inside(Charliecloud("/i")) == '"/tmp/${scratch##*/}"'
    assert scratch_inside(Apptainer("/i")) == scratch_inside(None) == '"$scratch"'


@pytest.mark.parametrize("tool", ALL)
def test_packages_of_the_user_may_be_asked_for(tool: Any) -> None:
    words = tool("i", env={"PYTHONNOUSERSITE": ""}).prefix()
    (word,) = [word for word in words if "PYTHONNOUSERSITE" in word]
    assert word.endswith("=PYTHONNOUSERSITE=")


@pytest.mark.parametrize("tool", ALL)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": ""}, "{}: the image is empty"),
        ({"image": "a b"}, "{}: image 'a b' has a blank in it, which the tool cannot handle"),
        (
            {"image": "i", "volumes": ["/a"]},
            "{}: volume '/a': SOURCE:DESTINATION is needed, such as '/scratch/me:/data'",
        ),
        (
            {"image": "i", "volumes": [":/a"]},
            "{}: volume ':/a': SOURCE:DESTINATION is needed, such as '/scratch/me:/data'",
        ),
        (
            {"image": "i", "volumes": ["/a b:/c"]},
            "{}: volume '/a b:/c' has a blank in it, which the tool cannot handle",
        ),
        ({"image": "i", "volumes": [""]}, "{}: the volume is empty"),
        (
            {"image": "i", "volumes": "/a:/b"},
            "{}: volumes='/a:/b': a sequence is needed, such as volumes=('/a:/b',)",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(tool: Any, fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{tool.__name__}: ") as caught:
        tool(**fields)
    assert str(caught.value) == message.format(tool.__name__)


@pytest.mark.parametrize("tool", [PodmanHPC, Apptainer, Charliecloud])
def test_only_shifter_has_images_of_jobs(tool: Any) -> None:
    with pytest.raises(ValueError, match=f"^{tool.__name__}: an image is needed$"):
        tool()


@pytest.mark.parametrize("fields", [{"volumes": ("/a,b:/c",)}, {"env": {"A": "1,2"}}])
def test_apptainer_splits_at_commas(fields: Any) -> None:
    with pytest.raises(ValueError, match="has a comma in it, where Apptainer splits"):
        Apptainer("i", **fields)


@pytest.mark.parametrize("arguments", ["--cgroups=disabled", ["--cgroups", "disabled"]])
def test_podman_without_cgroups_contradicts_process_numbers_of_the_host(arguments: Any) -> None:
    with pytest.raises(ValueError, match="--cgroups=disabled excludes --pid=host") as caught:
        PodmanHPC("i", arguments=arguments)
    assert str(caught.value).endswith('pass arguments=["--cgroups=no-conmon"] instead')
    assert "--cgroups=no-conmon" in PodmanHPC("i", arguments="--cgroups=no-conmon").prefix()


@pytest.mark.parametrize("tool", ALL)
def test_equal_containers_are_one_key_and_travel(tool: Any) -> None:
    first = tool("i:1", ["/a:/b"], "-a -b", env={"A": "1"})
    second = tool("i:1", ("/a:/b",), ["-a", "-b"], env={"A": "1"})
    assert len({first, second, pickle.loads(pickle.dumps(first))}) == 1
    assert first != tool("i:1", ["/a:/b"], "-a -b", env={"A": "2"})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (None, ()),
        ("", ()),
        ("--image=i:1 --env='X=a b'", ("--image=i:1", "--env=X=a b")),
        (["--image=i:1", "--env=X=a 'b"], ("--image=i:1", "--env=X=a 'b")),
        ((), ()),
    ],
)
def test_shifter_arguments_of_a_string_are_split_and_of_a_list_left_alone(
    arguments: str | Sequence[str] | None, words: tuple[str, ...]
) -> None:
    assert shifter_arguments(arguments) == words


# The page for users.

PAGE = (Path(__file__).parents[2] / "docs" / "containers.md").read_text()
EXAMPLE = re.compile(r"```python\n(container = [^`]*)```\n\n((?: {4}.*\n)+)")


def test_examples_of_the_page_are_the_command_lines_shown_there() -> None:
    shown_tools = set()
    for source, shown in EXAMPLE.findall(PAGE):
        names: dict[str, Any] = {tool.__name__: tool for tool in ALL}
        exec(source, names)
        text = shell_prefix(names["container"], ["/scratch/me/run", SCRATCH], "/scratch/me/run")
        assert text == " ".join(shown.split())
        shown_tools.add(type(names["container"]))
    assert shown_tools == set(ALL)


# What the tools say when they cannot start.

IMAGE = "the nodes cannot open the container's image: '"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "ch-run[7]: error: can't stat: /i: No such file or directory (ch_core.c:255 2)",
            f"{IMAGE}ch-run[7]: error: can't stat: /i: No such file or directory'; ",
        ),
        (
            "FATAL:   could not open image /i.sif: failed to retrieve path for /i.sif: lstat "
            "/i.sif: no such file or directory",
            f"{IMAGE}FATAL:   could not open image /i.sif: failed ",
        ),
        (
            'Error: short-name "i:1" did not resolve to an alias and no unqualified-search '
            "registries are defined",
            f'{IMAGE}Error: short-name "i:1" did not resolve ',
        ),
        ("Error: i:1: image not known", f"{IMAGE}Error: i:1: image not known'; "),
        (
            "FAILED to lookup docker image me/code:1",
            f"{IMAGE}FAILED to lookup docker image me/code:1'; ",
        ),
        (
            "ch-run[7]: error: can't mkdir: /i/scratch: Read-only file system (ch_misc.c:409 30)",
            "the container has no mount point /i/scratch; make that directory in the image, ",
        ),
        (
            "ch-run[7]: error: can't mkdir: /i/tmp/c under existing bind-mount /i/tmp (ch_misc.c)",
            "the container has no mount point /i/tmp/c; make that directory in the image, ",
        ),
        (
            "env: \u2018ch-run\u2019: No such file or directory",
            "the nodes have no program ch-run; load its module in job_script_prologue",
        ),
        (
            "env: 'ch-run': No such file or directory",
            "the nodes have no program ch-run; load its module in job_script_prologue",
        ),
        *(
            (line, "the container has no program python3; pass python= with one that is in the ")
            for line in (
                "ch-run[7]: error: can't execve(2): python3: No such file or directory (ch_core.c)",
                "shifter: python3: No such file or directory",
                'FATAL:   "python3": executable file not found in $PATH',
                'FATAL:   exec: "python3": executable file not found in $PATH',
                "Error: crun: executable file `python3` not found in $PATH: No such file or "
                "directory: OCI runtime attempted to invoke a command that was not found",
            )
        ),
        (
            "ch-run[7]: error: can't bind: source not found: /nope (ch_core.c:104)",
            "the nodes have no directory /nope to show in the container; look at volumes= and ",
        ),
    ],
)
def test_words_of_the_tools_become_one_sentence(line: str, sentence: str) -> None:
    said = diagnose(
        1, f"something before\n{line}\nsrun: error: n1: task 0: Exited with exit code 1"
    )
    assert said.startswith(sentence)
    assert "\n" not in said


# Shifter and the image of the job.

JOB = {
    "SLURM_SPANK_SHIFTER_IMAGE": "ab12",
    "SLURM_SPANK_SHIFTER_IMAGETYPE": "id",
    "SLURM_SPANK_SHIFTER_IMAGEREQUEST": "docker:me/code:latest",
}


def test_bare_shifter_in_a_job_without_an_image_is_told() -> None:
    with pytest.raises(ClusterError) as caught:
        checked(Shifter(arguments=("--module=gpu",)), {"SLURM_JOB_ID": "1"})
    assert str(caught.value) == (
        "Shifter has no image, and this job was not submitted with one "
        "(SLURM_SPANK_SHIFTER_IMAGE is not set): give image=, or submit it with --image="
    )


@pytest.mark.parametrize(
    ("container", "environ"),
    [
        (Shifter(), JOB),
        (Shifter(), {"SHIFTER": "docker:i"}),
        (Shifter("docker:me/code"), JOB),
        (Shifter("me/code:latest"), JOB),
        (Shifter(arguments="--image=docker:me/code:latest"), JOB),
        (Shifter(arguments="--image docker:me/code"), JOB),
        (Shifter(arguments="-i me/code"), JOB),
        (Shifter("other"), {}),
        (Shifter("other"), {"SLURM_SPANK_SHIFTER_IMAGE": "ab12"}),
        (Charliecloud("/i"), JOB),
        (None, JOB),
    ],
)
def test_nothing_to_say_about_the_image(container: Container | None, environ: Any) -> None:
    assert checked(container, environ) is container


@pytest.mark.parametrize(
    "container", [Shifter("docker:me/code:2"), Shifter(arguments="-i docker:me/code:2")]
)
def test_another_image_than_that_of_the_job_is_a_warning(container: Shifter) -> None:
    with pytest.warns(UserWarning, match="is not the job's own") as caught:
        checked(container, JOB)
    assert [str(warning.message) for warning in caught] == [
        "Shifter: the image docker:me/code:2 is not the job's own, docker:me/code:latest; every "
        "node now sets up both: submit the job with the one that is used, and pass Shifter()"
    ]
