"""Every command and snippet of the documentation runs, as it is written, on small data and a loopback Hub.

The commands of one document run in their order, in a folder of their own that looks like the repository. `RULES` says
what is appended to make each one small. A command that no rule knows fails, and so does a rule that nothing needs.
"""

import configparser
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.launch import launch_command_parser
from huggingface_hub import constants, hf_api
from PIL import Image
from torch.distributed.run import get_args_parser
from transformers import CLIPConfig, CLIPModel

from cffa_hf.arguments.parsing import parse_arguments
from cffa_hf.data.loading import load_person_dataset
from cffa_hf.demo import write_demo_dataset
from cffa_hf.evaluation.slices import attribute_groups
from cffa_hf.inputs.processor import train_tokenizer
from cffa_hf.names import ATTRIBUTES_FILE, DEMO_MARKER
from cffa_hf.publishing.cards import read_notes
from tests.hub_server import running_hub
from tests.processes import CONTEXT, run_script, write_people
from tests.tiny import person_rows

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [path for depth in ("*.md", "*/*.md") for path in sorted((REPOSITORY / "docs").glob(depth))]
DOCUMENTS = ["README.md", *(str(path.relative_to(REPOSITORY)) for path in PAGES)]
DOCUMENTS += ["CONTRIBUTING.md", "cffa_hf/person_retrieval/README.md"]
LINKED = ("cffa_hf", "configs", "benchmarks", "run_train.py", "run_eval.py", "push_to_hub.py")
LINKED += ("Makefile", "setup.cfg", "pyproject.toml", "constraints.txt")
SHELL, OTHER = {"bash", "sh"}, {"", "csv", "json", "markdown", "python", "text", "yaml"}

TRAIN = "--num_train_epochs 1 --per_device_train_batch_size 16 --use_cpu true --disable_tqdm true --precision float32"
FROM_CLIP = f"{TRAIN} --image_size 64 32 --dataloader_num_workers 0"
DEMO = f"{TRAIN} --image_size 48 16 --hidden_size 64 --num_layers 2 --projection_dim 64 --local_dim 32"
DEMO += " --vocabulary_size 600 --context_length 40"
# Regular expression of a whole command -> words that are appended.
RUN = {
    r"accelerate launch -m cffa_hf\.cli\.train --config configs/own_data\.yaml --dataset my-data": (
        f"{FROM_CLIP} --output_dir outputs/again --validation_identities 4 --test_identities 4"
    ),
    # What the other tests do, in parts.
    r"make (demo|setup|test|test-lowest|fast-test|lint|docs|fuzz|torture|soak|audit|gpu-check)( SEED=\.\.\.)?": "--dry-run",
    r"(accelerate launch|python) run_train\.py --config configs/cuhk_pedes\.yaml( --dataset_root data)?": FROM_CLIP,
    r"accelerate launch run_train\.py --config configs/published/\w+\.yaml --dataset_root datasets": (
        f"{FROM_CLIP} --precision published"
    ),
    r"accelerate launch run_train\.py --config configs/methods/rde\.yaml configs/icfg_pedes\.yaml": FROM_CLIP,
    r"python run_eval\.py outputs/published_\w+ --config .*": "--num_workers 0",
    r"accelerate launch run_train\.py --config configs/own_data\.yaml --dataset my-data": (
        f"{FROM_CLIP} --validation_identities 4 --test_identities 4"
    ),
    r"python run_train\.py --config configs/own_data\.yaml --dataset my-data": (
        f"{FROM_CLIP} --validation_identities 4 --test_identities 4"
    ),
    r"python run_eval\.py outputs/own_data .*": "--num_workers 0 --validation_identities 4 --test_identities 4",
    r"python run_train\.py --config configs/methods/cffa\.yaml --dataset my-shards .*": FROM_CLIP,
    r"python run_train\.py --config configs/demo\.yaml configs/methods/clip\.yaml .*": DEMO,
    r"accelerate launch run_train\.py --config configs/demo\.yaml configs/search\.yaml": f"{DEMO} --search_trials 2",
    r"accelerate launch run_train\.py --config configs/demo\.yaml outputs/search/best_settings\.yaml .*": DEMO,
    r"python run_train\.py --config configs/demo\.yaml --num_train_epochs 2 --output_dir outputs/try": DEMO,
    r"python run_train\.py --config configs/demo\.yaml --resume_from_checkpoint \S+": (f"{DEMO} --num_train_epochs 3"),
    r"python run_train\.py --config configs/demo\.yaml --report_to tensorboard --overwrite_output_dir true": DEMO,
    r"python run_train\.py --config configs/demo\.yaml --caption_noise .*": DEMO,
    r"tensorboard --logdir outputs/demo/runs": "--inspect",  # reads the log and ends instead of serving it
    r"python run_(train|eval)\.py --help": "",
    r"python run_eval\.py outputs/\w+ --config .*": "--num_workers 0",
    r"python benchmarks/encoding\.py": "--people 2 --repeats 1 --quick",
    r"python benchmarks/service\.py": "--people 2 --seconds 0.1 --users 2",
    r"python benchmarks/evaluation\.py": (
        "--measure core embeddings --sizes 20x30 --identities 5 --width 8 --threads 1"  # one of its four processes
    ),
    r"cffa-hf demo-data demo-pretrain --identities 20000 0 0 --images-per-identity 1 --seed 7": "--identities 24 0 0",
    r"python run_train\.py --config configs/pretrain/demo\.yaml": DEMO,
    r"python run_train\.py --config configs/demo\.yaml --init_from outputs/pretrain_demo .*": DEMO,
    r"cffa-hf demo-data demo-data --layout cuhk_pedes --seed 0": "--identities 2 1 1 --images_per_identity 2",
    r"cffa-hf config( own_data)?": "",
    r"cffa-hf train --config own_data --dataset my-data": f"{FROM_CLIP} --validation_identities 4 --test_identities 4",
    r"cffa-hf evaluate outputs/own_data --config own_data --dataset my-data": (
        "--num_workers 0 --validation_identities 4 --test_identities 4"
    ),
    r"cffa-hf demo-data demo-data": "--identities 4 3 3 --images-per-identity 2",
    r"cffa-hf train --config configs/demo\.yaml --num_train_epochs 1 --output_dir outputs/first": DEMO,
    r"cffa-hf train --config demo": f"{DEMO} --overwrite_output_dir true",
    r"cffa-hf evaluate outputs/demo --config demo --report": "--num_workers 0",
    r"cffa-hf completion bash": "",
    r"cffa-hf convert .*": "--image-size 64 32",
    r"cffa-hf [a-z-]+": "--help",  # the name of a subcommand
    r"cffa-hf index .*": "",
    r"cffa-hf search .*": "",
    r"cffa-hf export .*": "",
    r"python benchmarks/exports\.py": "--tiny --rounds 1",
    r"hf auth login": "--token hf_writer",
    r"python push_to_hub\.py .*": "",
    r"cffa-hf push-dataset .*": "",
    r"cffa-hf check-data .*": "",
}
# Commands of the system, which a shell runs as they are.
IN_SHELL = {r"(curl|openssl rand|chmod) .*": "is no program of Python"}
# Commands that serve until they are ended: what follows in their document is asked of them.
SERVED = {r"cffa-hf serve .*": "--device cpu"}
# Commands whose words are only read, by the parsers that would read them: reason.
PARSED = {
    r"accelerate launch --config_file .*": "several devices or machines; tests/test_distributed.py starts both configs",
    r"accelerate launch --cpu --num_processes 2": "the words warn of it",
    r"(srun )?torchrun .*": "several devices or processes; tests/test_distributed.py starts two",
    r"pip (install|wheel) .*": "needs a package index",
}
NOT_RUN = {
    r"cffa-hf app .*": "serves until it is interrupted; tests/page starts it and drives it in a browser",
    r"accelerate launch run_train\.py --config configs/methods/sigmoid.*": "tests/test_add_a_method.py runs it",
    r"accelerate launch run_train\.py --config configs/pretrain/mals\.yaml": "tests/training/test_streaming.py streams",
    r"accelerate launch run_train\.py --config configs/cuhk_pedes\.yaml --init_from .*": "goes on from the one above",
    r"python benchmarks/ablation\.py .*": "hours; tests/test_benchmarks.py runs its quick form",
    r"python benchmarks/data_memory\.py .*": "minutes; tests/test_benchmarks.py runs it on 2,000 images",
    r"python benchmarks/pretraining\.py": "hours; tests/test_benchmarks.py runs its quick form",
    r"MASTER=\$\(scontrol .*\)": "needs Slurm",
    r"python -m cffa_hf\.arguments\.listing": "writes into the package; tests/cli/test_cli.py compares what it writes",
    r"python run_eval\.py converted --config \.\.\. .*": "stands for any config",
    r"python run_train\.py( \.\.\.)?|accelerate launch( run_train\.py)?|torchrun|pip install": "a program's name, not a command",
}
# What snippets take for granted, and what holds after them.
BEFORE = {
    "docs/evaluation.md": """
import cffa_hf
from transformers import AutoModel, AutoProcessor
model, processor = AutoModel.from_pretrained("outputs/demo").eval(), AutoProcessor.from_pretrained("outputs/demo")
""",
    "docs/scaling.md": "import os\nos.environ['HF_TOKEN'] = 'hf_writer'\n",
    "cffa_hf/person_retrieval/README.md": """
import torch
queries, gallery = torch.eye(4), torch.eye(4).repeat(2, 1)
query_ids, gallery_ids = torch.arange(4), torch.arange(8) % 4
""",
}
AFTER = {"README.md": "assert len(gallery.search('a woman', k=5)) == 5 and abs(result.score) <= 1"}


@dataclass(frozen=True)
class Document:
    """What a document holds: code blocks with their language, and commands and options in the text."""

    blocks: list[tuple[str, str]]
    commands: list[str]
    text: str


def read_document(name: str) -> Document:
    """Take a document apart."""
    whole = (REPOSITORY / name).read_text(encoding="utf-8")
    fence = re.compile(r"^([ ]*)```(\w*)\n(.*?)^\1```$", re.M | re.S)
    blocks = [(language, textwrap.dedent(code)) for _, language, code in fence.findall(whole)]
    text = fence.sub("", whole)
    commands = []
    for language, code in blocks:
        if language in SHELL:
            lines = code.replace("\\\n", " ").splitlines()
            stripped = (re.sub(r"(^|\s+)#.*", "", line) for line in lines)
            commands += [" ".join(line.split()) for line in stripped if line.strip()]
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    programs = r"(python|accelerate launch|torchrun|cffa-hf|hf|pip install|tensorboard|make) ?\b"
    commands += [span for span in spans if re.match(programs, span) and span not in ("tensorboard", "hf")]
    return Document(blocks, list(dict.fromkeys(commands)), text)


CONTENT = {name: read_document(name) for name in DOCUMENTS}
# tests/test_add_a_method.py changes a copy of the package as this page says, and trains with it.
FOLLOWED = "docs/add-a-method.md"


def blocks_of(language: str) -> list[tuple[str, str]]:
    return [
        (name, code)
        for name in DOCUMENTS
        for kind, code in CONTENT[name].blocks
        if kind == language and name != FOLLOWED
    ]


def rule_of(command: str) -> str | None:
    """Return the pattern that says what is done with a command."""
    patterns = (pattern for rules in (NOT_RUN, PARSED, IN_SHELL, SERVED, RUN) for pattern in rules)
    return next((pattern for pattern in patterns if re.fullmatch(pattern, command)), None)


ALL = [(name, command) for name in DOCUMENTS for command in CONTENT[name].commands]
FIRST = {command: name for name, command in reversed(ALL)}  # what two documents say runs once


def test_each_command_has_a_rule_and_each_rule_a_command():
    assert [command for _, command in ALL if rule_of(command) is None] == []
    assert {rule_of(command) for _, command in ALL} == {*RUN, *IN_SHELL, *SERVED, *PARSED, *NOT_RUN}


def test_each_block_names_a_language_that_is_tested():
    assert {language for content in CONTENT.values() for language, _ in content.blocks} <= SHELL | OTHER


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    folder = (REPOSITORY / name).parent
    targets = re.findall(r"\]\(([^)\s]+)\)", CONTENT[name].text)
    wanted = [target.partition("#")[0] for target in targets if not re.match(r"\w+://|#", target)]
    assert [target for target in wanted if not (folder / target).exists()] == []


# Words that parsers read


@pytest.mark.parametrize("command", [command for command in FIRST if rule_of(command) in PARSED])
def test_parsers_read(command, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    for placeholder, value in {"--config ...": "--config configs/demo.yaml", " ...": "", " N ": " 0 "}.items():
        command = command.replace(placeholder, value)
    words = shlex.split(command)
    if words[0] == "pip":
        extras = re.findall(r"\[(\w+)\]", command)
        known = configparser.ConfigParser()
        known.read("setup.cfg")
        assert all(extra in known["options.extras_require"] for extra in extras)
        return
    if words[0] == "accelerate":
        if "run_train.py" not in words:
            words.append("run_train.py")
        read = launch_command_parser().parse_args(words[2:])
        assert read.config_file is None or Path(read.config_file).is_file()
    else:
        read = get_args_parser().parse_args(words[words.index("torchrun") + 1 :])
    assert read.training_script == "run_train.py"
    if read.training_script_args:
        parse_arguments([*read.training_script_args, "--use_cpu", "true"])


# Data and settings


@pytest.mark.parametrize(("name", "code"), blocks_of("yaml"))
def test_settings(name, code, tmp_path):
    settings = yaml.safe_load(code)
    shipped = yaml.safe_load((REPOSITORY / "configs" / "cuhk_pedes.yaml").read_text())
    if "dataset" in settings:
        assert settings == shipped, f"{name} does not show configs/cuhk_pedes.yaml as it is"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(shipped | settings | {"use_cpu": True}))
    parse_arguments(["--config", str(tmp_path / "config.yaml")])


def json_blocks(key: str) -> list[str]:
    return [code for _, code in blocks_of("json") if key in json.loads(code)]


def test_each_json_block_is_tested_below():
    assert sum(len(json_blocks(key)) for key in ("file_name", "mentions", "checkpoint")) == len(blocks_of("json"))


@pytest.mark.parametrize("line", json_blocks("file_name"))
def test_lines_of_metadata(line, tmp_path):
    people = write_people(tmp_path / "people")
    entry = json.loads(line)
    (people / "cam1").mkdir()
    shutil.copy(people / "0.png", people / entry["file_name"])
    others = [json.loads(text) for text in (people / "metadata.jsonl").read_text().splitlines()]
    lines = [json.dumps({"split": "train", **entry, "person_id": 99}), *map(json.dumps, others)]
    (people / "metadata.jsonl").write_text("\n".join(lines))
    row = load_person_dataset(str(people), None)["train"][0]
    assert row["captions"] == entry["captions"]
    assert row["camera"] == entry.get("camera")


def test_tables_of_metadata(tmp_path):
    ((_, table),) = [(name, code) for name, code in blocks_of("csv") if name == "docs/data.md"]
    (tmp_path / "metadata.csv").write_text(table, encoding="utf-8")
    data = load_person_dataset(str(tmp_path), None, validation_identities=0, test_identities=0)
    assert [len(captions) for captions in data["train"]["captions"]] == [2, 1]


@pytest.mark.parametrize("line", json_blocks("mentions"))
def test_lines_of_attributes(line, tmp_path):
    people = write_people(tmp_path / "people")
    entry = json.loads(line)
    metadata = [json.loads(text) for text in (people / "metadata.jsonl").read_text().splitlines()]
    lines = [json.dumps(entry | {"file_path": row["file_name"]}) for row in metadata]
    (people / ATTRIBUTES_FILE).write_text("\n".join(lines))
    groups = attribute_groups(load_person_dataset(str(people), None)["validation"])
    assert {"mentions hat", "mentions coat"} <= groups.keys()


def test_notes():
    ((_, notes),) = blocks_of("markdown")
    assert read_notes(notes, "the block") == "Tried on the gallery of our film archive."


# Commands and snippets


@pytest.fixture(scope="session")
def hub():
    with running_hub() as hub:
        yield hub


def become(script: str, words: list[str], log: str, folder: str, endpoint: str) -> None:
    """Become a script, in the child process, in a folder and with a Hub of its own."""
    os.chdir(folder)
    home = Path(folder) / "home"
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        del os.environ[name]
    os.environ.update(HF_HOME=str(home), HF_ENDPOINT=endpoint, HF_HUB_DISABLE_XET="1", PYTHONPATH=str(REPOSITORY))
    constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_XET, constants.ENDPOINT = False, True, endpoint
    constants.HUGGINGFACE_CO_URL_TEMPLATE = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    constants.HF_TOKEN_PATH, constants.HF_STORED_TOKENS_PATH = str(home / "token"), str(home / "stored_tokens")
    hf_api.api.endpoint = endpoint
    run_script(script, words, log, False)


def run_command(words: list[str], folder: Path, endpoint: str) -> str:
    """Run a program as a process in a folder; returns what it printed."""
    program, *rest = words
    if program == "make":
        script, rest = str(folder / "make.py"), words
        Path(script).write_text("import subprocess, sys\nsys.exit(subprocess.call(sys.argv[1:]))\n")
    elif program == "python":
        script, rest = str(folder / rest[0]), rest[1:]
    else:
        script = str(Path(sys.executable).parent / program)
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", PYTHONUNBUFFERED="1")
    CONTEXT.set_forkserver_preload(["tests.preload"])
    log = folder / "log.txt"
    process = CONTEXT.Process(target=become, args=(script, rest, str(log), str(folder), endpoint))
    process.start()
    process.join(200)
    if process.is_alive():
        process.kill()
        process.join()
    text = log.read_text(errors="replace") if log.exists() else ""
    assert process.exitcode == 0, f"{shlex.join(words)}\n{text[-4000:]}"
    return text


@contextmanager
def running_service(words: list[str], folder: Path) -> Iterator[None]:
    """Start a command that serves, and end it as an operator would; returns when it answers."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "cffa_hf.cli", *words[1:]]
    process = subprocess.Popen(command, cwd=folder, env=variables, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith("serving "), shlex.join(words)
        yield
    finally:
        process.terminate()
        with process.stdout:
            assert process.wait(60) == 0, shlex.join(words)


@pytest.fixture(scope="session")
def moved():
    """Move the ports of a text to free ones."""
    ports = {}
    for port in ("8000", "8001"):
        with socket.create_server(("127.0.0.1", 0)) as listening:
            ports[port] = str(listening.getsockname()[1])
    place = re.compile(r"(?<=127\.0\.0\.1:)800[01]\b|(?<=--port )800[01]\b")
    return lambda text: place.sub(lambda match: ports[match.group()], text)


@pytest.fixture(scope="session")
def template(tmp_path_factory, hub) -> Path:
    """The repository with data in every layout, one's own pictures and a trained demo model."""
    folder = tmp_path_factory.mktemp("docs") / "repository"
    folder.mkdir()
    for name in LINKED:
        (folder / name).symlink_to(REPOSITORY / name)
    for layout in ("cuhk_pedes", "icfg_pedes", "rstpreid"):
        write_demo_dataset(folder / "data", layout, identities=(8, 3, 3), images_per_identity=2, seed=4, workers=0)
    shutil.copytree(folder / "data" / "CUHK-PEDES", folder / "demo-data" / "CUHK-PEDES")
    shutil.copytree(folder / "data" / "CUHK-PEDES", folder / "datasets" / "CUHK-PEDES")
    (folder / "datasets" / "CUHK-PEDES" / DEMO_MARKER).unlink()  # stands for the benchmark's own images
    for name in ("my-data", "my_people", "photos"):
        write_people(folder / name)
    rows = (folder / "my-data" / "metadata.jsonl").read_text().splitlines()
    without_splits = [{key: value for key, value in json.loads(row).items() if key != "split"} for row in rows]
    (folder / "my-data" / "metadata.jsonl").write_text("\n".join(map(json.dumps, without_splits)))
    write_clip(folder / "openai" / "clip-vit-base-patch16")
    run_command(shlex.split(f"python run_train.py --config configs/demo.yaml {DEMO}"), folder, hub.endpoint)
    return folder


def write_clip(folder: Path) -> None:
    """Write a tiny CLIP; a folder of a model's name stands for the model on the Hub."""
    tokenizer = train_tokenizer([text for texts in person_rows()["captions"] for text in texts], 600)
    sizes = {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2, "intermediate_size": 128}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**sizes, "vocab_size": len(tokenizer), "eos_token_id": 2},
        vision_config={**sizes, "image_size": 64, "patch_size": 16},
        projection_dim=64,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture
def workspace(template, tmp_path) -> Path:
    """A copy of the template."""
    return Path(shutil.copytree(template, tmp_path / "repository", symlinks=True))


def snippets(name: str) -> str:
    """The Python of a document as one script; what a comment says of a dictionary is asserted."""
    code = "\n".join(code for language, code in CONTENT[name].blocks if language == "python")
    said = r"^(\w[^\n]*)\n# (\{.*\})$"
    rounded = r"assert {key: round(value, 2) for key, value in (\1).items()} == \2"
    return f"{BEFORE.get(name, '')}\n{re.sub(said, rounded, code, flags=re.M)}\n{AFTER.get(name, '')}\n"


def prepare(name: str, folder: Path) -> Iterator[str]:
    """Make what a document says was there before; yields commands to run for it."""
    outputs = folder / "outputs"
    if name == "docs/evaluation.md":
        shutil.copytree(outputs / "demo", outputs / "cuhk_pedes")
    if name == "docs/scaling.md":
        (block,) = [code for document, code in blocks_of("yaml") if document == name and "lora" in code]
        settings = yaml.safe_load((folder / "configs" / "cuhk_pedes.yaml").read_text()) | yaml.safe_load(block)
        (folder / "lora.yaml").write_text(yaml.safe_dump(settings))
        yield f"python run_train.py --config lora.yaml --output_dir outputs/run {FROM_CLIP}"
    if name == "docs/search.md":
        (table,) = [code for document, code in blocks_of("csv") if document == name]
        head, *values = [line.partition(",")[::2] for line in table.splitlines()]
        paths = sorted((folder / "photos").glob("*.png"))
        lines = [f"{path.name},{values[number % len(values)][1]}" for number, path in enumerate(paths)]
        (folder / "photos.csv").write_text("\n".join([",".join(head), *lines]))
        Image.open(paths[0]).convert("RGB").save(folder / "person.jpg")
    if name == "docs/export.md":
        yield "python push_to_hub.py outputs/demo --repo-id me/model --dry-run published"
    if name == "docs/index.md":
        yield "cffa-hf index demo-data/CUHK-PEDES/imgs outputs/demo/gallery --checkpoint outputs/demo"
    if name == "docs/tutorials/publish.md":
        yield "hf auth login --token hf_writer"


@pytest.mark.slow
@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_and_snippets(name, workspace, hub, moved):
    for command in prepare(name, workspace):
        run_command(shlex.split(command), workspace, hub.endpoint)
    with ExitStack() as services:
        for command in CONTENT[name].commands:
            rule = rule_of(command)
            if rule in RUN and FIRST[command] == name:
                words = [*shlex.split(command), *shlex.split(RUN[rule])]
                if words[1:3] == ["demo-data", "demo-data"]:
                    shutil.rmtree(workspace / "demo-data")
                for number in re.findall(r"outputs/demo/(checkpoint-\d+)", command):
                    runs = workspace / "outputs" / "demo"
                    shutil.copytree(min(runs.glob("checkpoint-*")), runs / number)
                run_command(words, workspace, hub.endpoint)
            elif rule in SERVED:
                port = "" if "--port" in command else "--port 8000"
                words = shlex.split(moved(f"{command} {SERVED[rule]} {port}"))
                services.enter_context(running_service(words, workspace))
            elif rule in IN_SHELL:
                subprocess.run(["bash", "-c", moved(command)], cwd=workspace, check=True, timeout=60)
        if name != FOLLOWED and any(language == "python" for language, _ in CONTENT[name].blocks):
            (workspace / "snippets.py").write_text(moved(snippets(name)))
            run_command(["python", "snippets.py"], workspace, hub.endpoint)
    own = [command for command in CONTENT[name].commands if FIRST[command] == name and "--dry-run" not in command]
    wanted = re.findall(r"--repo-id (\S+)|push_to_hub\(\"(\S+)\"\)", "\n".join([*own, snippets(name)]))
    assert {first or second for first, second in wanted} <= {repository for _, repository in hub.repositories}
    if any(command.startswith("tensorboard") for command in CONTENT[name].commands):
        assert list((workspace / "outputs/demo/runs").rglob("events.*"))
