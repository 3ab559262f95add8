# CIFAR-10 on two cores: every network and table of the topics' READMEs, in an order that gives tables early.
#
#     make cifar10                                    # everything, one after the other
#     make -f experiments/cifar10.mk classification   # one topic: classification, ratio, ood_detection, tradeoffs,
#                                                   # perturbation_sets, ood_to_id
#
# What is finished is not done again, and what was killed goes on from its last checkpoint. RUNS says where networks are
# kept; RUN is put before each command, as in RUN="taskset -c 0" for one core. CIFAR-10, the test images of CIFAR-100,
# Tiny ImageNet's outliers and DTD must be prepared once, see experiments/data/README.md.

PYTHON ?= .venv/bin/python
RUNS ?= runs/cifar10
RUN ?=
SEEDS ?= 0 1
COMMAND := $(RUN) $(PYTHON) -m experiments

.PHONY: all classification ratio ood_detection tradeoffs perturbation_sets ood_to_id
all: classification ratio ood_detection tradeoffs perturbation_sets ood_to_id

# --- classification: linf 8/255, half an hour of one core each unless the name says another time ---
n_fgsm_10 := --updates 1330
n_fgsm_30 := --updates 4000
n_fgsm_90 := --updates 12000
n_fgsm_90_wide := --updates 6000 --model resnet8_48
pgd2_30 := --loss adversarial --attack.steps 2 --attack.step 0.75 --updates 2900
pgd7_30 := --loss adversarial --attack.steps 7 --attack.step 0.3 --updates 1200
trades_30 := --loss trades --attack.steps 2 --attack.step 0.75 --updates 1900
awp_30 := --loss adversarial --attack.steps 2 --attack.step 0.75 --awp 0.005 --updates 2000
TRAININGS := n_fgsm_30 pgd2_30 pgd7_30 trades_30 awp_30 n_fgsm_10
LONG := n_fgsm_90 n_fgsm_90_wide
ATTACKED = $(RUNS)/classification/$(1)/attack/fast_linf_0.03137/results.json
SHORT_RUNS := $(foreach seed,$(SEEDS),$(foreach training,$(TRAININGS),$(training)_$(seed)))
CLASSIFIERS := $(SHORT_RUNS) $(LONG:%=%_0)

define classifier
$(call ATTACKED,$(1)_$(2)):
	$(COMMAND).classification.train cifar10_small $($(1)) --seed $(2) --out $(RUNS)/classification/$(1)_$(2)
	$(COMMAND).classification.attack fast --source.run $(RUNS)/classification/$(1)_$(2) --eps 8/255
endef
$(foreach seed,$(SEEDS),$(foreach training,$(TRAININGS) $(LONG),$(eval $(call classifier,$(training),$(seed)))))

classification: $(foreach run,$(CLASSIFIERS),$(call ATTACKED,$(run)))
	$(COMMAND).classification.frontier --runs $(CLASSIFIERS:%=$(RUNS)/classification/%) \
		--report fast_linf_0.03137 --out $(RUNS)/classification/frontier

# --- RATIO: five trainings, two seeds, in one command ---
ratio:
	$(COMMAND).ratio.compare cifar10_small --out $(RUNS)/ratio

# --- ALOE: OOD detection at the radii of ALOE and of ATOM ---
AT_8 := --id-attack.eps 8/255 --ood-attack.eps 8/255
AT_1 := --id-attack.eps 1/255 --ood-attack.eps 1/255
plain := --loss standard
oe := --loss oe
$(foreach radius,8 1,$(foreach loss,adversarial aoe acet aloe,$(eval $(loss)_$(radius) := --loss $(loss) $(AT_$(radius)))))
DETECTORS := plain oe $(foreach radius,8 1,$(foreach loss,adversarial aoe acet aloe,$(loss)_$(radius)))
DETECTOR_RUNS := $(foreach seed,$(SEEDS),$(foreach detector,$(DETECTORS),$(detector)_$(seed)))

define detector
$(RUNS)/ood_detection/$(1)_$(2)/report.html:
	$(COMMAND).ood_detection.train cifar10_small $($(1)) --seed $(2) --out $(RUNS)/ood_detection/$(1)_$(2)
endef
$(foreach seed,$(SEEDS),$(foreach name,$(DETECTORS),$(eval $(call detector,$(name),$(seed)))))

ood_detection: $(DETECTOR_RUNS:%=$(RUNS)/ood_detection/%/report.html)
	$(COMMAND).ood_detection.evaluate cifar10_small --runs $(DETECTOR_RUNS:%=$(RUNS)/ood_detection/%) \
		--out $(RUNS)/ood_detection/evaluated
	$(COMMAND).ood_detection.evaluate cifar10_small --runs $(SEEDS:%=$(RUNS)/ood_detection/plain_%) \
		--detectors odin mahalanobis_layers --out $(RUNS)/ood_detection/evaluated_plain

# --- trade-offs: linear heads on frozen networks, pictures on textures ---
SHORT := --updates 2000
PGD2 := $(SHORT) --loss adversarial --attack.steps 2 --attack.step 0.75
clean := $(SHORT) --loss standard
linf_2 := $(PGD2) --attack.eps 2/255
linf_4 := $(PGD2) --attack.eps 4/255
linf_8 := $(PGD2) --attack.eps 8/255
l2_0.25 := $(PGD2) --attack.norm l2 --attack.eps 0.25
l2_0.5 := $(PGD2) --attack.norm l2 --attack.eps 0.5
l2_1 := $(PGD2) --attack.norm l2 --attack.eps 1
BACKBONES := clean linf_2 linf_4 linf_8 l2_0.25 l2_0.5 l2_1

define backbone
$(RUNS)/tradeoffs/$(1)_$(2)/report.html:
	$(COMMAND).classification.train cifar10_small $($(1)) --seed $(2) --out $(RUNS)/tradeoffs/$(1)_$(2)
endef
$(foreach seed,$(sort $(SEEDS) 0 1),$(foreach name,$(BACKBONES),$(eval $(call backbone,$(name),$(seed)))))
against = @$(if $(filter clean,$(1)),clean,$(subst _,:,$(1))$(if $(filter linf%,$(1)),/255))

tradeoffs: $(foreach seed,$(SEEDS),$(BACKBONES:%=$(RUNS)/tradeoffs/%_$(seed)/report.html))
	$(foreach seed,$(SEEDS),$(COMMAND).tradeoffs.benchmark cifar10 --out $(RUNS)/tradeoffs/benchmark_$(seed) --networks \
		$(foreach name,$(BACKBONES),$(name)=$(RUNS)/tradeoffs/$(name)_$(seed)$(call against,$(name)));)

# --- perturbation sets: corruptions, and networks trained on the set ---
SET = $(RUNS)/perturbation_sets/set_$(1)
METHODS := plain real augmented adversarial smoothed

define learned
$(call SET,$(1))/report.html:
	$(COMMAND).perturbation_sets.train cifar10_small --seed $(1) --out $(call SET,$(1))

$(call SET,$(1))_evaluated/report.html: $(call SET,$(1))/report.html
	$(COMMAND).perturbation_sets.evaluate cifar10_small --run $(call SET,$(1)) --out $(call SET,$(1))_evaluated

$(RUNS)/perturbation_sets/certified_$(1)/report.html: $(RUNS)/perturbation_sets/smoothed_$(1)/report.html
	$(COMMAND).perturbation_sets.certify cifar10_small --runs $(RUNS)/perturbation_sets/smoothed_$(1) \
		--out $(RUNS)/perturbation_sets/certified_$(1)
endef
define trained_on_set
$(RUNS)/perturbation_sets/$(1)_$(2)/report.html: $(call SET,$(2))/report.html
	$(COMMAND).perturbation_sets.train_classifier cifar10_small --set $(call SET,$(2)) --method $(1) --seed $(2) \
		--out $(RUNS)/perturbation_sets/$(1)_$(2)
endef
$(foreach seed,$(SEEDS),$(eval $(call learned,$(seed))))
$(foreach seed,$(SEEDS),$(foreach name,$(METHODS),$(eval $(call trained_on_set,$(name),$(seed)))))

perturbation_sets: $(foreach seed,$(SEEDS),$(call SET,$(seed))_evaluated/report.html \
	$(METHODS:%=$(RUNS)/perturbation_sets/%_$(seed)/report.html) $(RUNS)/perturbation_sets/certified_$(seed)/report.html)

# --- OOD-to-ID: before the plainly trained networks of the trade-offs; each is also attacked by way of the other ---
define translator
$(RUNS)/ood_to_id/$(1)/report.html: $(RUNS)/tradeoffs/clean_$(1)/report.html
	$(COMMAND).ood_to_id.train cifar10_small --classifier $(RUNS)/tradeoffs/clean_$(1) --seed $(1) \
		--out $(RUNS)/ood_to_id/$(1)
endef
define defence
$(RUNS)/ood_to_id/evaluated_$(1)/report.html: $(RUNS)/ood_to_id/0/report.html $(RUNS)/ood_to_id/1/report.html
	$(COMMAND).ood_to_id.evaluate cifar10_small --run $(RUNS)/ood_to_id/$(1) --source $(RUNS)/ood_to_id/$(2) \
		--seed $(1) --out $(RUNS)/ood_to_id/evaluated_$(1)
endef
$(foreach seed,0 1,$(eval $(call translator,$(seed))))
$(eval $(call defence,0,1))
$(eval $(call defence,1,0))

ood_to_id: $(SEEDS:%=$(RUNS)/ood_to_id/evaluated_%/report.html)
