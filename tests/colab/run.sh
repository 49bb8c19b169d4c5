#!/usr/bin/env bash
# Does the setup cell leave Colab's packages alone, and does a chapter run on them?
#
#   tests/colab/run.sh [CHAPTER]    # default 02_norms; a few minutes and 2 GB in a temporary folder
#
# It takes Colab's published pins, clones HEAD and installs the library as the setup cell does,
# compares every version before and after, and executes the chapter to its end. Claims are shown,
# not compared with the records. It is not Colab itself: torch is the one that TORCH names, Python
# the one that PYTHON names (Colab has 3.13 and torch 2.11.0 built for CUDA), and there is no GPU.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(git -C "$here" rev-parse --show-toplevel)
chapter=${1:-02_norms}
torch=${TORCH:-torch==2.13.0}
work=$(mktemp -d "${TMPDIR:-/tmp}/colab.XXXXXX")
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH T2I_LENS_ROOT T2I_LENS_BUILD
cd "$work"

"${PYTHON:-python3}" -m venv venv
python=$work/venv/bin/python
"$python" -m pip install -q --progress-bar off -r "$here/pins.txt" "$torch"
"$python" -m pip list --format=freeze | sort >before
git clone -q --depth 1 "file://$root" token-takeover

# From here on as the setup cell of a notebook, without constraints.
"$python" -m pip install -q --progress-bar off token-takeover/lib
"$python" -m pip list --format=freeze | sort >after
moved=$(comm -23 before after)
if [ -n "$moved" ]; then
  echo "the setup cell replaces: $moved" >&2
  exit 1
fi
echo "$(wc -l <before) packages stand, the library adds: $(comm -13 before after | tr '\n' ' ')"

# The runner, which Colab does not need.
"$python" -m pip install -q --progress-bar off -c before papermill
cd token-takeover/notebooks
"$python" -m t2i_lens.study.cli run "$chapter"
"$python" - "$chapter" <<'CLAIMS'
import json
import sys

from t2i_lens.base.paths import BUILD

(folder,) = (BUILD / "trials").glob(f"{sys.argv[1]}-*")
run = json.loads((folder / "run.json").read_text())
print(f"python {run['python']},", ", ".join(f"{k} {v}" for k, v in run["versions"].items()))
records = json.loads((folder / "claims.json").read_text())
assert records, "the chapter measured no claim"
for record in records:
    print(record["id"], record["verdict"], record["value"], record["interval"])
CLAIMS
