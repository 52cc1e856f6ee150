# Everything here sets itself up: a virtual environment in .venv, from the pinned versions in
# constraints.txt. It takes 6 GB, most of it torch's CUDA packages, and 2 minutes to install.
# Another Python: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CLIPFEAT := $(BIN)/clipfeat
BENCH_VENV ?= .venv-bench
MINIMUM_VENV ?= .venv-minimum
# What is installed: this folder, so that changes count at once, or a wheel: PACKAGE=dist/clipfeat-....whl
PACKAGE ?= -e .
DIST ?= dist
SITE ?= site
# The stamps carry the Python version: another PYTHON means another environment. := asks it once.
INSTALLED := .installed-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
STAMP = $(VENV)/$(INSTALLED)
BENCH_STAMP = $(BENCH_VENV)/$(INSTALLED)
MINIMUM_STAMP = $(MINIMUM_VENV)/$(INSTALLED)

# The demo: how many scenes, which model, which weights (a tag, a path, or none = random). Those of the
# default are ImageNet's, in a Python package. MODEL=RN50 PRETRAINED=openai needs a network.
DEMO ?= demo-out
SCENES ?= 1200
MODEL ?= timm/tf_efficientnet_lite0
PRETRAINED ?= package
DEMO_STORE := $(DEMO)/scenes.clipfeat
ifeq ($(strip $(DEMO)),)
$(error DEMO= names no folder; leave it out, or name one)
endif
# The demo's houses, for navigation. Their encoder is a small ViT with random weights: it tells colours.
HOUSES ?= 25
ROOMS ?= 3
NAV_STORE := $(DEMO)/views.clipfeat
HOUSES_MADE := houses views.parquet views.clipfeat views.run.json views.files.parquet
# What the demo makes anew each time. What else is trained in its folder stays.
DEMO_MADE := data images.parquet scenes.clipfeat scenes.run.json scenes.files.parquet extract.json \
    corpus demo-vqa demo-vqa-blind demo.png share

.PHONY: help setup machine demo demo-share train-vqa train-ve train-caption train-nav pretrain test test-slow test-all test-minimum coverage lint types docs wheel bench-extract bench-store bench-lookup bench-plan bench-loader bench-steps bench-decode bench-vqa bench-train bench-pretrain bench-cider bench-caption bench-encoders bench-share bench-exchange bench-nav bench-view paper paper-dry paper-sample gpu-check gpu-wheels view-page clean
.DELETE_ON_ERROR:

help:
	@echo "make demo       draw scenes, extract, verify, train VQA, report (4 minutes, after the installation)"
	@echo "make demo-share two labs on this machine: extract, sign, serve; pull, verify, train (2 minutes)"
	@echo "make train-vqa  train on the demo store, or: make train-vqa STORE=x.clipfeat DATA=vqa/"
	@echo "make train-ve   the same for visual entailment: make train-ve STORE=x.clipfeat DATA=snli_ve/"
	@echo "make pretrain   the same for pre-training; CONFIG=demo_finetune INIT=run then starts from it"
	@echo "make train-caption  the same for captions, both stages: ... STORE=x.clipfeat DATA=captions/"
	@echo "make train-nav  draw houses, extract their views, train an agent and its blind twin (7 minutes), or:"
	@echo "                make train-nav STORE=views.clipfeat DATA=R2R/ GRAPHS=connectivity/"
	@echo "make test       the fast tests       make test-slow lint types docs   what CI checks besides"
	@echo "make test-all   both in one"
	@echo "make test-minimum   some of them with the oldest packages that setup.cfg allows (Python 3.11)"
	@echo "make coverage   the fast tests, and which lines they run     make wheel   dist/ for a release"
	@echo "make bench-extract bench-store bench-lookup bench-plan bench-loader bench-steps bench-train"
	@echo "make bench-vqa bench-pretrain bench-decode bench-cider bench-caption bench-encoders"
	@echo "make bench-share bench-exchange bench-nav bench-view"
	@echo "                the numbers in docs/log.md"
	@echo "make paper ROW=vqa-mcan-rn50x4 DATA=data/ OUT=out/   a row of the paper (docs/reproduce.md)"
	@echo "make paper-dry  all of them on small data   make paper-sample   two, which the commit chooses"
	@echo "make view-page  the page of clipfeat view from view/frontend (needs node 20 and npm)"
	@echo "make gpu-check  whether a GPU is right and fast   make gpu-wheels   what that needs elsewhere"

setup: $(STAMP)

# $(call install,extra,constraints): the recipe of a stamp, a fresh environment around it. pip compiles
# all modules: where PYTHONDONTWRITEBYTECODE is set, each process would compile what it imports.
define install
	@$(PYTHON) -c 'import sys; sys.exit("clipfeat needs Python >= 3.11, this is %s; type: make PYTHON=python3.12" % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet -c $2 $(PACKAGE)'[$1]'
	@touch $@
endef

$(VENV)/.installed-%: constraints.txt setup.cfg setup.py pyproject.toml
	$(call install,dev,constraints.txt)

# The peers need older versions of some packages than ours are tested with.
$(BENCH_VENV)/.installed-%: constraints-bench.txt setup.cfg setup.py pyproject.toml
	$(call install,bench,constraints-bench.txt)

$(MINIMUM_VENV)/.installed-%: constraints-minimum.txt setup.cfg setup.py pyproject.toml
	$(call install,dev,constraints-minimum.txt)

# The mark tells the demo's folder from one of yours that has the same name: a new folder, or an
# empty one, gets it, and nothing is made or deleted in any other.
define mark_demo
	@test -e $(DEMO)/.demo || test -z "$$(ls -A $(DEMO) 2>/dev/null)" || \
	    { echo "$(DEMO) has files and no .demo, the mark of the demo's folder; name another (DEMO=demo2)," \
	        "or type touch $(DEMO)/.demo if it is an older demo's" >&2; exit 2; }
	@mkdir -p $(DEMO) && touch $(DEMO)/.demo
endef

$(DEMO)/data: | $(STAMP)
	$(mark_demo)
	$(CLIPFEAT) demo-data $@ --images $(SCENES) --seed 0

$(DEMO)/images.parquet: | $(DEMO)/data
	$(CLIPFEAT) manifest $(DEMO)/data/images -o $@

$(DEMO_STORE)/store.json: | $(DEMO)/images.parquet
	$(CLIPFEAT) extract --model $(MODEL) --pretrained $(PRETRAINED) --recipe square:160 \
	    --images $(DEMO)/images.parquet --out $(DEMO_STORE) --json > $(DEMO)/extract.json

demo: $(STAMP)
	$(mark_demo)
	rm -rf $(addprefix $(DEMO)/,$(DEMO_MADE))
	@$(MAKE) --no-print-directory $(DEMO_STORE)/store.json
	$(CLIPFEAT) store verify $(DEMO_STORE)
	$(CLIPFEAT) train vqa --store $(DEMO_STORE) --data $(DEMO)/data/vqa --out $(DEMO)/demo-vqa
	$(CLIPFEAT) train vqa --store $(DEMO_STORE) --data $(DEMO)/data/vqa --out $(DEMO)/demo-vqa-blind \
	    --set blind=true
	$(BIN)/python -m clipfeat.demo.report $(DEMO)

# Its commands are those of docs/sharing.md.
demo-share: $(STAMP)
	$(mark_demo)
	rm -rf $(DEMO)/share
	$(BIN)/python -m clipfeat.demo.share $(DEMO)/share

INIT_RUN = $(if $(INIT),--init $(INIT))
# Runs of different presets lie side by side: runs/vqa, runs/vqa-pythia.
OF_CONFIG = $(if $(CONFIG),-$(basename $(notdir $(CONFIG))))

# On the user's own store: make train-vqa STORE=coco.clipfeat DATA=vqa/ [CONFIG=pythia] [RUN=runs/a]
ifdef STORE
pretrain: RUN ?= runs/pretrain$(OF_CONFIG)
pretrain: $(STAMP)
	$(if $(DATA),,$(error make pretrain STORE=$(STORE) needs DATA=, the folder of clipfeat corpus))
	$(CLIPFEAT) train pretrain $(CONFIG) --store $(STORE) --data $(DATA) --out $(RUN) $(INIT_RUN)

train-vqa: RUN ?= runs/vqa$(OF_CONFIG)
train-vqa: $(STAMP)
	$(if $(DATA),,$(error make train-vqa STORE=$(STORE) needs DATA=, the folder of VQA v2 files))
	$(CLIPFEAT) train vqa $(CONFIG) --store $(STORE) --data $(DATA) --out $(RUN) $(INIT_RUN)

train-ve: RUN ?= runs/ve$(OF_CONFIG)
train-ve: $(STAMP)
	$(if $(DATA),,$(error make train-ve STORE=$(STORE) needs DATA=, the folder of SNLI-VE files))
	$(CLIPFEAT) train ve $(CONFIG) --store $(STORE) --data $(DATA) --out $(RUN) $(INIT_RUN)

train-caption: RUN ?= runs/caption$(OF_CONFIG)
train-caption: $(STAMP)
	$(if $(DATA),,$(error make train-caption STORE=$(STORE) needs DATA=, the folder of caption files))
	$(CLIPFEAT) train caption $(CONFIG) --store $(STORE) --data $(DATA) --out $(RUN)

train-nav: RUN ?= runs/nav$(OF_CONFIG)
train-nav: $(STAMP)
	$(if $(DATA),,$(error make train-nav STORE=$(STORE) needs DATA=, the folder of R2R's or RxR's files))
	$(CLIPFEAT) train nav $(CONFIG) --store $(STORE) --data $(DATA) $(if $(GRAPHS),--graphs $(GRAPHS)) \
	    --out $(RUN) $(INIT_RUN)
else
$(DEMO)/corpus: | $(DEMO)/data
	$(CLIPFEAT) corpus --captions $(DEMO)/data/captions --vqa $(DEMO)/data/vqa --out $@

pretrain: RUN ?= $(DEMO)/pretrain$(OF_CONFIG)
pretrain: $(STAMP)
	@$(MAKE) --no-print-directory $(DEMO_STORE)/store.json $(DEMO)/corpus
	$(CLIPFEAT) train pretrain $(or $(CONFIG),demo) --store $(DEMO_STORE) --data $(DEMO)/corpus \
	    --out $(RUN) $(INIT_RUN)

train-vqa: RUN ?= $(DEMO)/vqa$(OF_CONFIG)
train-vqa: $(STAMP)
	@$(MAKE) --no-print-directory $(DEMO_STORE)/store.json
	$(CLIPFEAT) train vqa $(CONFIG) --store $(DEMO_STORE) --data $(DEMO)/data/vqa --out $(RUN) $(INIT_RUN)

train-ve: RUN ?= $(DEMO)/ve$(OF_CONFIG)
train-ve: $(STAMP)
	@$(MAKE) --no-print-directory $(DEMO_STORE)/store.json
	$(CLIPFEAT) train ve $(or $(CONFIG),demo) --store $(DEMO_STORE) --data $(DEMO)/data/snli_ve --out $(RUN) \
	    $(INIT_RUN)

train-caption: RUN ?= $(DEMO)/caption$(OF_CONFIG)
train-caption: $(STAMP)
	@$(MAKE) --no-print-directory $(DEMO_STORE)/store.json
	$(CLIPFEAT) train caption $(or $(CONFIG),demo) --store $(DEMO_STORE) --data $(DEMO)/data/captions --out $(RUN)

$(DEMO)/houses: | $(STAMP)
	$(mark_demo)
	$(CLIPFEAT) demo-houses $@ --houses $(HOUSES) --rooms $(ROOMS) --seed 0

$(DEMO)/views.parquet: | $(DEMO)/houses
	$(CLIPFEAT) manifest --views $(DEMO)/houses/views -o $@

$(NAV_STORE)/store.json: | $(DEMO)/views.parquet
	$(CLIPFEAT) extract --model-config $(DEMO)/houses/encoder.json --pretrained none --recipe views \
	    --images $(DEMO)/views.parquet --out $(NAV_STORE)

train-nav: RUN ?= $(DEMO)/nav$(OF_CONFIG)
train-nav: TRAIN_NAV = $(CLIPFEAT) train nav $(or $(CONFIG),demo) --store $(NAV_STORE) \
    --data $(DEMO)/houses/r2r --graphs $(DEMO)/houses/connectivity
train-nav: $(STAMP)
	@$(MAKE) --no-print-directory $(NAV_STORE)/store.json
	$(TRAIN_NAV) --out $(RUN) $(INIT_RUN)
	$(TRAIN_NAV) --out $(RUN)-blind --set blind=true
	$(CLIPFEAT) eval nav $(RUN) --split val_unseen --blind $(RUN)-blind \
	    --page $(RUN)/episodes.html --images $(DEMO)/houses/views
endif

# Two processes of one thread each: most of the time goes to commands that are started. Files in their
# order: by default those of few tests, which are the slow ones, would come last, to one process.
# Some of them: make test TESTS=tests/featstore
# Bytecode is written even where the environment forbids it: else every process compiles all tests.
# Those that are marked slow, for the many processes that they start or kill, have a target of their
# own; test-all, both in one, imports torch once less.
PYTEST = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadfile \
    --no-loadscope-reorder --durations=20
test: $(STAMP)
	$(PYTEST) -m "not slow" $(TESTS)

test-slow: $(STAMP)
	$(PYTEST) -m slow $(TESTS)

test-all: $(STAMP)
	$(PYTEST) $(TESTS)

# The lower bounds of setup.cfg, in an environment of their own: make test-minimum PYTHON=python3.11
# Old packages call what newer ones of other projects have deprecated: that is no error here.
MINIMUM_TESTS = tests/base tests/cli tests/demo tests/featstore tests/manifests \
    tests/extract/test_backbone.py tests/extract/test_extraction.py tests/extract/test_weights_file.py \
    tests/train/test_models.py tests/train/test_single_stream.py tests/train/test_loop.py \
    tests/train/test_tensorboard.py tests/train/test_vqa_cli.py
test-minimum: BIN = $(MINIMUM_VENV)/bin
test-minimum: $(MINIMUM_STAMP)
	$(PYTEST) -m "not slow" -W default::DeprecationWarning $(or $(TESTS),$(MINIMUM_TESTS))

coverage: $(STAMP)
	$(PYTEST) -m "not slow" --cov --cov-report=term --cov-report=html $(TESTS)

# pyright and make docs find `clipfeat.…` through these links; editable installs hide it.
LINKS = $(patsubst %/py.typed,.typing/clipfeat/%,$(wildcard */py.typed))
.typing/clipfeat/%:
	@mkdir -p $(@D) && ln -sfn "$(CURDIR)/$*" $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) $(LINKS)
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(STAMP) $(LINKS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir $(abspath $(SITE))

# The sdist, and the wheel that is built from it.
wheel: $(STAMP)
	rm -rf $(DIST)
	$(BIN)/python -m build --no-isolation --outdir $(DIST) > /dev/null
	@ls $(DIST)

# Every benchmark begins with the processor and its instruction sets: numbers hold for those alone.
machine: $(STAMP)
	@$(BIN)/python -m benchmarks.machine

bench-extract: machine
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m benchmarks.extract $(BENCH)

# In an environment of its own: bench-store BENCH="--kinds A --json numbers.json"
bench-store: $(BENCH_STAMP)
	@$(BENCH_VENV)/bin/python -m benchmarks.machine
	$(BENCH_VENV)/bin/python -m benchmarks.store $(BENCH)

bench-lookup: machine
	$(BIN)/python -m benchmarks.lookup

bench-plan: machine
	$(BIN)/python -m benchmarks.plan

bench-loader: machine
	$(BIN)/python -m benchmarks.loader $(BENCH)

bench-steps: machine
	$(BIN)/python -m benchmarks.steps $(BENCH)

# A pre-training step at the sizes of BERT: tokens/s, operations/s, memory.
bench-train: machine
	$(BIN)/python -m benchmarks.train $(BENCH)

# Three seeds of pre-training, and both tasks from each and from scratch: about two hours.
bench-pretrain: machine
	@$(MAKE) --no-print-directory $(DEMO_STORE)/store.json
	$(BIN)/python -m benchmarks.pretraining $(DEMO) $(BENCH)

bench-decode: machine
	$(BIN)/python -m benchmarks.decode $(BENCH)

# Every VQA model and its blind twin on the demo's store: about half an hour.
bench-vqa: machine
	@$(MAKE) --no-print-directory $(DEMO_STORE)/store.json
	$(BIN)/python -m benchmarks.vqa_models $(DEMO) $(BENCH)

# Three seeds of both stages of captioning: about ten minutes.
bench-caption: machine
	@$(MAKE) --no-print-directory $(DEMO_STORE)/store.json
	$(BIN)/python -m benchmarks.captions $(DEMO) $(BENCH)

# Encoders by tasks, three seeds: an untrained RN50, the demo's own, regions, blind. About two hours.
bench-encoders: machine
	@$(MAKE) --no-print-directory $(DEMO_STORE)/store.json
	$(BIN)/python -m benchmarks.encoders $(DEMO) $(BENCH)

# Beside the scorer of self-critical training: bench-cider BENCH="--peer cider/"
bench-cider: machine
	$(BIN)/python -m benchmarks.cider $(BENCH)

# Pulling, reading and training on URLs, derived stores: make bench-share BENCH="--phases pull --gb 2"
bench-share: machine
	$(BIN)/python -m benchmarks.share $(BENCH)

# Importing and exporting a table of 500 MB, beside cp: make bench-exchange BENCH="--mb 2000"
bench-exchange: machine
	$(BIN)/python -m benchmarks.exchange $(BENCH)

# Steps of the navigation environment beside plain Python, preparing 90 scans, updates of the
# follower and the map agent: three minutes.
bench-nav: machine
	$(BIN)/python -m benchmarks.navigation $(BENCH)

# How fast the explorer answers; its largest store takes 600 MB of disk, and 1 GB of memory.
bench-view: machine
	$(BIN)/python -m benchmarks.view $(BENCH)

# A row of docs/reproduce.md; without ROW, all are listed. An interrupted one continues.
paper: $(STAMP)
	$(BIN)/python -m benchmarks.paper $(ROW) $(if $(DATA),--data $(DATA)) --out $(or $(OUT),paper-out)

# The command lines of that page on small data, each in one thread. OUT= keeps what they make.
PAPER_DRY = OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.paper --dry --jobs 2 $(if $(OUT),--out $(OUT))
paper-dry: $(STAMP)
	$(PAPER_DRY) $(ROW)

paper-sample: $(STAMP)
	$(PAPER_DRY) --sample 2

# Features, bits, speed and training of a GPU, in eight minutes; on a CPU, the phases that need no GPU.
gpu-check: $(STAMP)
	$(BIN)/python -m benchmarks.gpu_check $(BENCH)

# What it needs on a machine that has torch, torchvision, timm and transformers, and no package index:
# make gpu-wheels GPU_PYTHON=3.12, for the Python of that machine.
GPU_PYTHON ?= 3.11
GPU_WHEELS = click cloudpickle dask donfig fsspec ftfy google-crc32c importlib_metadata locket \
    msgspec numcodecs open_clip_torch partd protobuf tensorboardX toolz wcwidth zarr zipp
gpu-wheels: $(STAMP)
	rm -rf $@
	$(BIN)/python -m pip download --quiet --no-deps --only-binary=:all: -c constraints.txt -d $@ \
	    --python-version $(GPU_PYTHON) --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 \
	    $(GPU_WHEELS)
	@du -sh $@ && test $$(du -sm $@ | cut -f1) -lt 25

# The built page is in the repository, so that only those who change it need node. Packages run no
# scripts when they are installed; the build checks types, licences and size.
view-page:
	cd view/frontend && npm ci --ignore-scripts && npm run build

clean:
	rm -rf view/frontend/node_modules
	rm -rf $(VENV) $(BENCH_VENV) $(MINIMUM_VENV) .typing *.egg-info $(DIST) $(SITE) htmlcov .coverage*
	@test ! -e $(DEMO)/.demo || rm -rf $(addprefix $(DEMO)/,$(DEMO_MADE) $(HOUSES_MADE))
