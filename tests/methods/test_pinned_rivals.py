"""Rivals against the numbers that their authors' published code computes."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinned import assert_pinned, labels_of, reference, tensor, wrong_labels_of
from steps import step_with
from trifecta import Learner, LocalNetwork, build_network, get_method
from trifecta.inputs import standardized, standardized_pair
from trifecta.losses import (
    AugmentedAuxiliary,
    AuxiliaryCrossEntropy,
    Combined,
    GroupCrossEntropy,
    Head,
    LocalPrediction,
    Similarity,
    Site,
    SupervisedContrastive,
    Temperature,
    Threshold,
)
from trifecta.losses.combined import (
    CoarseHead,
    coarsened,
    deviations,
)
from trifecta.losses.functional import position_loss, similarities
from trifecta.losses.goodness import group_means
from trifecta.losses.head import build_head
from trifecta.losses.pairs import position_goodness
from trifecta.nn.blocks import Triangle, linear_block
from trifecta.nn.convolution import limited_pool
from trifecta.nn.norms import ClassGroupNorm, LengthNorm, NormSite


def gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, inputs)


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


def fill(weight: nn.Parameter, number: int, scale: float, shift: float = 0.0) -> nn.Parameter:
    with torch.no_grad():
        weight.copy_(tensor(number, *weight.shape, scale=scale, shift=shift))
    return weight


def head_of(objective: Any, shape: tuple[int, ...]) -> Head:
    head = objective.head(shape, 10)
    assert isinstance(head, Head)
    return head.double()


class TestLocalLosses:
    """Nøkland & Eidnes 2019."""

    values = reference("local_loss")
    labels = labels_of(0, 6)

    def test_similarities(self) -> None:
        maps = self.values["convolutional"]
        x = tensor(0, 6, 4, 4, 4, shift=1)
        assert_pinned(deviations(x), maps["standard_deviations_of_features (6,4)"])
        assert_pinned(similarities(deviations(x)), maps["similarity_matrix_of_features_themselves"])
        few = deviations(tensor(4, 6, 3, 4, 4, shift=1))
        key = "similarity of few channels: features (6,3,4,4), v+1, t=4 are flattened, no deviation"
        assert_pinned(similarities(few), maps[key])
        position = deviations(tensor(5, 6, 4, 1, 1, shift=1))
        assert_pinned(
            similarities(position),
            maps["similarity of one position: features (6,4,1,1), v+1, t=5 are flattened"],
        )
        labels = F.one_hot(self.labels, 10).double()
        assert_pinned(similarities(labels), self.values["similarity_of_labels (6,6), from one-hot rows"])

    @pytest.mark.parametrize(
        ("words", "at_most"),
        [("unpooled (F=64)", 4096), ("at most 16 inputs", 16), ("at most 32 inputs", 32)],
    )
    def test_prediction(self, words: str, at_most: int) -> None:
        expected = self.values["convolutional"][f"pred, {words}"]
        x = tensor(0, 6, 4, 4, 4, shift=1).requires_grad_()
        head = head_of(LocalPrediction(at_most=at_most), (4, 4, 4))
        weight, bias = head.get_parameter("classifier.weight"), head.get_parameter("classifier.bias")
        assert not weight.any()
        scale = weight.shape[1] ** -0.5
        fill(weight, 2, scale)
        fill(bias, 3, scale)
        loss = head.loss(x, self.labels)
        assert_pinned(loss, expected["loss"])
        of_x, of_weight, of_bias = gradients(loss, x, weight, bias)
        assert_pinned(of_x, expected["gradient_features"])
        # Their sums are 0 but for rounding.
        assert_pinned(of_weight, expected["gradient_classifier_weight"])
        assert_pinned(of_bias.sum(), 0.0)

    def combined(self, objective: Combined, at_most: int) -> tuple[Head, nn.Parameter]:
        head = head_of(objective, (4, 4, 4))
        weight = fill(head.get_parameter("terms.0.weights.weight"), 1, 1 / 6)
        classifier = head.get_parameter("scoring.classifier.weight")
        fill(classifier, 2, classifier.shape[1] ** -0.5)
        fill(head.get_parameter("scoring.classifier.bias"), 3, classifier.shape[1] ** -0.5)
        return head, weight

    def test_similarity_matching_gives_the_block_no_other_gradient(self) -> None:
        expected = self.values["convolutional"]["sim"]
        x = tensor(0, 6, 4, 4, 4, shift=1).requires_grad_()
        sim = get_method("sim").objective
        assert isinstance(sim, Combined)
        head, weight = self.combined(sim, 2048)
        of_x, of_weight = gradients(head.loss(x, self.labels), x, weight)
        assert_pinned(of_x, expected["gradient_features"])
        assert_pinned(of_weight, expected["gradient_convolution_weight"])
        module = Similarity().module((4, 4, 4), 10).double()
        fill(module.get_parameter("weights.weight"), 1, 1 / 6)
        assert_pinned(module(x, self.labels), expected["loss"])

    @pytest.mark.parametrize(("words", "at_most"), [("unpooled", 4096), ("at most 16 inputs", 16)])
    def test_both(self, words: str, at_most: int) -> None:
        expected = self.values["convolutional"][f"predsim, beta 0.99, {words}"]
        objective = get_method("predsim").objective
        assert isinstance(objective, Combined)
        objective = Combined(
            scoring=LocalPrediction(at_most=at_most), weight=objective.weight, terms=objective.terms
        )
        x = tensor(0, 6, 4, 4, 4, shift=1).requires_grad_()
        head, weight = self.combined(objective, at_most)
        loss = head.loss(x, self.labels)
        assert_pinned(loss, expected["loss"])
        classifier = head.get_parameter("scoring.classifier.weight")
        of_x, of_weight, of_classifier = gradients(loss, x, weight, classifier)
        assert_pinned(of_x, expected["gradient_features"])
        assert_pinned(of_weight, expected["gradient_convolution_weight"])
        assert_pinned(of_classifier, expected["gradient_classifier_weight"])

    def test_fully_connected(self) -> None:
        expected = self.values["dense"]
        x = tensor(10, 6, 20, shift=1).requires_grad_()
        head = head_of(
            Combined(scoring=LocalPrediction(), weight=0.01, terms=(Similarity(weight=0.99),)), (20,)
        )
        weight = fill(head.get_parameter("terms.0.weights.weight"), 11, 20**-0.5)
        classifier = fill(head.get_parameter("scoring.classifier.weight"), 12, 20**-0.5)
        fill(head.get_parameter("scoring.classifier.bias"), 13, 20**-0.5)
        loss = head.loss(x, self.labels)
        assert_pinned(loss, expected["predsim, beta 0.99"]["loss"])
        of_x, of_weight, of_classifier = gradients(loss, x, weight, classifier)
        assert_pinned(of_x, expected["predsim, beta 0.99"]["gradient_features"])
        assert_pinned(of_weight, expected["predsim, beta 0.99"]["gradient_similarity_weight"])
        assert_pinned(of_classifier, expected["predsim, beta 0.99"]["gradient_classifier_weight"])

    def test_three_steps_of_a_block(self) -> None:
        expected = self.values["block, predsim, three Adam steps"]
        block = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()).double()
        fill(block.get_parameter("0.weight"), 21, 27**-0.5)
        fill(block.get_parameter("0.bias"), 22, 27**-0.5)
        objective = Combined(
            scoring=LocalPrediction(at_most=32), weight=0.01, terms=(Similarity(weight=0.99),)
        )
        head = head_of(objective, (8, 4, 4))
        fill(head.get_parameter("terms.0.weights.weight"), 23, 72**-0.5)
        fill(head.get_parameter("scoring.classifier.bias"), 24, 32**-0.5)
        optimizer = torch.optim.Adam([*block.parameters(), *head.parameters()], lr=5e-4)
        for step, loss_wanted in enumerate(expected["losses"]):
            optimizer.zero_grad()
            output = block(tensor(30 + step, 6, 3, 4, 4, scale=2))
            loss = head.loss(output, labels_of(6 * step, 6))
            torch.autograd.backward(loss)
            optimizer.step()
            assert_pinned(loss, loss_wanted)
        found = {
            "encoder.weight": block.get_parameter("0.weight"),
            "norm.weight": block.get_parameter("1.weight"),
            "norm.bias": block.get_parameter("1.bias"),
            "similarity_convolution": head.get_parameter("terms.0.weights.weight"),
            "classifier.weight": head.get_parameter("scoring.classifier.weight"),
            "classifier.bias": head.get_parameter("scoring.classifier.bias"),
        }
        for name, parameter in found.items():
            assert_pinned(parameter, expected["after"][name], 1e-7)

    def test_pools(self) -> None:
        table = self.values["classifier_pooling (largest inputs: channels x height x width)"]
        for words, expected in table.items():
            at_most, _, size = words.partition(": ")
            channels, height, width = map(int, size.split("x"))
            kernel, padding, features = limited_pool((channels, height, width), int(at_most))
            assert list(kernel) == (expected["kernel"] or [1, 1]), words
            assert list(padding) == (expected["padding"] or [0, 0]), words
            assert features == expected["inputs"], words


class TestCwComp:
    """Papachristodoulou et al. 2024."""

    values = reference("cwcomp")

    def test_goodness_of_a_map(self) -> None:
        head = head_of(get_method("cwcomp").objective, (20, 4, 4))
        for name, number, scale in (("given_map", 0, 2), ("large_map", 1, 12)):
            expected = self.values[name]
            y = tensor(number, 4, 20, 4, 4, scale=scale).requires_grad_()
            assert_pinned(head.scores(y), expected["goodness (4,10)"])
            loss = head.loss(y, labels_of(0, 4))
            assert_pinned(loss, expected["cross_entropy"]["loss"])
            assert_pinned(gradient(loss, y), expected["cross_entropy"]["gradient_y"])

    def test_two_steps_of_a_block(self) -> None:
        """The library's own block and its head, on images of three channels."""
        expected = self.values["layer_plain"]
        network = build_network(
            get_method("cwcomp"), "small", sample_shape=(3, 8, 8), num_classes=10, width=20 / 128
        ).double()
        # The first block without its pool, as the code's first layer.
        parts = dict(network.blocks[0].named_children())
        block = nn.Sequential(parts["weights"], parts["activation"], parts["normalize"])
        fill(block.get_parameter("0.weight"), 10, 27**-0.5)
        fill(block.get_parameter("0.bias"), 11, 27**-0.5)
        head = head_of(get_method("cwcomp").objective, (20, 8, 8))
        optimizer = torch.optim.Adam(block.parameters(), lr=0.01)
        for step, loss_wanted in enumerate(expected["losses"]):
            optimizer.zero_grad()
            output = block(tensor(12 + step, 4, 3, 8, 8, scale=2))
            loss = head.loss(output, labels_of(4 * step, 4))
            if step == 0:
                assert_pinned(head.scores(output), expected["first_step"]["goodness"])
                assert_pinned(output.square().sum(), expected["first_step"]["passed_on"][1])
            torch.autograd.backward(loss)
            optimizer.step()
            assert_pinned(loss, loss_wanted)
        after = expected["after_two_adam_steps"]
        for name, part in {"weight": "0.weight", "bias": "0.bias", "norm.weight": "2.weight"}.items():
            assert_pinned(block.get_parameter(part), after[name], 1e-7)
        assert_pinned(block.get_parameter("2.bias"), after["norm.bias"], 1e-7)

    def test_earlier_blocks_stop_earlier_as_the_code_has_it(self) -> None:
        optimizer = get_method("cwcomp").optimizer
        ends = [optimizer.end(k, 4) * 25 for k in range(4)]
        assert ends == pytest.approx([11, 16, 21, 25], abs=0.7)


def layer(network: dict[str, Any], k: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Goodness of layer k of a 17-layer network, and what it passes on."""
    shape = network["shapes"][k]
    weight = tensor(10 + k, *shape, scale=(9 * shape[1]) ** -0.5)
    activations = F.relu(F.conv2d(x, weight, stride=network["strides"][k], padding=1))
    head = head_of(GroupCrossEntropy(goodness="mean"), (shape[0], 1, 1))
    return head.scores(activations), ClassGroupNorm(shape[0], 10)(activations)


def residual_pass(network: dict[str, Any], images: Tensor, *, by_class: bool) -> list[Tensor]:
    """Goodness of every layer, with parameter-free shortcuts."""
    x = ClassGroupNorm(3, 1)(images)
    kinds, becomes = network["shortcut_kind"], network["becomes_shortcut"]
    shortcut, goodness = x, []
    for k, kind in enumerate(kinds):
        each, x = layer(network, k, x)
        goodness.append(each)
        if kind == 1:
            x = x + shortcut
        elif kind == 2 and by_class:
            own, other = (maps.view(len(x), 10, -1, *x.shape[2:]) for maps in (x, shortcut))
            x = torch.cat([own, other], dim=2).flatten(1, 2)
        elif kind == 2:
            x = torch.cat([x, shortcut], dim=1)
        if becomes[k]:
            shortcut = F.avg_pool2d(x, 2) if network["shortcut_averaged_2x2"][k] else x
    return goodness


class TestDeeperForward:
    """Sun et al. 2025."""

    values = reference("deeper_forward")

    def test_a_layer(self) -> None:
        expected = self.values["given_map"]
        before = tensor(0, 4, 20, 4, 4, scale=2).requires_grad_()
        activations = F.relu(before)
        head = head_of(get_method("deeper-forward").objective, (20, 4, 4))
        assert_pinned(head.scores(activations), expected["goodness (4,10)"])
        loss = head.loss(activations, labels_of(0, 4))
        assert_pinned(loss, expected["loss"])
        assert_pinned(gradient(loss, before), expected["gradient of the map before ReLU"])
        passed_on = ClassGroupNorm(20, 10).double()(activations)
        assert_pinned(passed_on.square().sum(), expected["passed_on"][1])
        assert_pinned(passed_on[0, :2], expected["passed_on_image_0_channels_0_1 (2,4,4)"])
        # What hides the goodness: every group's mean is zero.
        assert head.scores(passed_on).abs().max() < 1e-12

    def test_seventeen_layers(self) -> None:
        network = self.values["network"]
        images = tensor(105, 4, 3, 16, 16, scale=2)
        goodness = residual_pass(network, images, by_class=False)
        assert_pinned(goodness[0], network["goodness_of_layer_0 (4,10), not in the sum"])
        fused = torch.stack(goodness[1:]).sum(0)
        key = "fused_goodness_of_layers_1_to_16 (4,10), their sum"
        assert_pinned(fused, network[key])
        assert fused.argmax(1).tolist() == network["fused_prediction"]

    def test_the_method_has_the_codes_settings(self) -> None:
        method = get_method("deeper-forward")
        network = build_network(method, "small", sample_shape=(3, 16, 16), num_classes=10, width=0.125)
        norms = [block.get_submodule("normalize") for block in network.blocks]
        assert [norm.num_classes for norm in norms if isinstance(norm, ClassGroupNorm)] == [1, *[10] * 5]
        assert all(m.p == 0.2 for m in network.modules() if isinstance(m, nn.Dropout))
        assert sum(isinstance(m, nn.Dropout) for m in network.modules()) == 6
        assert network.readout_blocks == (1, 2, 3, 4, 5)


class TestHclFf:
    """Yao et al. 2026."""

    values = reference("hcl_ff")
    labels = torch.tensor(values["labels"])

    def test_temperatures(self) -> None:
        for epoch, expected in self.values["temperatures_of_1000_epochs"].items():
            assert_pinned(Temperature().at(int(epoch), 1000), expected)

    @pytest.mark.parametrize("epoch", [0, 50, 999])
    def test_the_contrastive_term(self, epoch: int) -> None:
        expected = self.values["contrastive"][f"epoch {epoch}"]
        module: Any = SupervisedContrastive().module((20, 4, 4), 10).double()
        module.set_epoch(epoch, 1000)
        weight = fill(module.get_parameter("projection.weight"), 1, 320**-0.5)
        before = tensor(0, 8, 20, 4, 4, scale=2).requires_grad_()
        activations = F.relu(before)
        unit = F.normalize(module.project(activations))
        assert_pinned(unit, self.values["contrastive"]["projected (8,128), unit length"])
        loss = module(activations, self.labels)
        assert_pinned(loss, expected["loss"])
        of_map, of_weight = gradients(loss, before, weight)
        assert_pinned(of_map, expected["gradient of the map before ReLU"])
        assert_pinned(of_weight, expected["gradient_projection"])

    @pytest.mark.parametrize("level", ["1", "2", "3", "4"])
    def test_coarse_scores(self, level: str) -> None:
        expected = self.values["coarse_scores_by_level"][level]
        groups = self.values["hierarchy_CIFAR10"][level]
        superclasses = [next(s for s, group in enumerate(groups) if c in group) for c in range(10)]
        before = tensor(0, 8, 20, 4, 4, scale=2).requires_grad_()
        fine = GroupCrossEntropy(goodness="mean").head((20, 4, 4), 10)
        head = CoarseHead(fine, superclasses).double()
        assert torch.equal(head.superclasses[self.labels], torch.tensor(expected["labels"]))
        coarse = group_means(fine.scores(F.relu(before)), head.members)
        assert_pinned(coarse[:2], expected["scores_of_images_0_and_1"])
        loss = head.loss(F.relu(before), self.labels)
        assert_pinned(loss, expected["cross_entropy"])
        assert_pinned(gradient(loss, before), expected["gradient of the map before ReLU"])
        assert torch.equal(head.scores(F.relu(before)), fine.scores(F.relu(before)))

    def test_levels_of_seventeen_layers(self) -> None:
        # Of two, three and four superclasses.
        levels = tuple(tuple(c % count for c in range(10)) for count in (2, 3, 4))
        fine = GroupCrossEntropy(goodness="mean").head((20, 4, 4), 10)
        heads = [coarsened(fine, Site(k, [(20, 4, 4)] * 17, 10), levels) for k in range(17)]
        numbers = [head.members.shape[1] - 1 if isinstance(head, CoarseHead) else 4 for head in heads]
        assert numbers == self.values["level_of_each_of_17_layers"]

    def test_seventeen_layers(self) -> None:
        network = self.values["network"]
        images = tensor(105, 8, 3, 16, 16, scale=2)[:4]
        goodness = residual_pass(network, images, by_class=True)
        assert_pinned(torch.stack(goodness[1:]).sum(0), network["before"]["goodness_sum (4,10)"])


class TestScff:
    """Chen et al. 2025; kernels of 5 and 3, whose padding is part of what is standardised there."""

    values = reference("scff")
    published = get_method("scff").objective

    def head(self, block: int) -> Any:
        return build_head(self.published, Site(block, [(4, 8, 8)] * 3, 10))

    def pair(self, x: Tensor, padding: int) -> tuple[Tensor, Tensor]:
        """Positives and negatives: image i with itself, and with image i + 1."""
        unit = F.pad(standardized(x), (padding,) * 4, mode="reflect")
        return standardized_pair(unit, unit), standardized_pair(unit, unit.roll(-1, 0))

    def loss(self, positive: Tensor, negative: Tensor, block: int) -> Tensor:
        head = self.head(block)
        return position_loss(
            position_goodness(positive),
            position_goodness(negative),
            thresholds=head.thresholds,
            penalty=head.penalty,
        )

    def test_pairs_response_goodness_and_what_goes_on(self) -> None:
        expected = self.values["layer_1"]
        images = tensor(10, 4, 3, 12, 12, scale=2)
        assert_pinned(standardized(images).square().sum(), expected["normalised_images"][1])
        weight = tensor(0, 8, 3, 5, 5, scale=75**-0.5).requires_grad_()
        bias = tensor(1, 8, scale=75**-0.5).requires_grad_()
        responses = [F.conv2d(x, weight, 2 * bias) for x in self.pair(images, 2)]
        assert_pinned(responses[0], expected["response_positive (4,8,12,12), before ReLU"])
        assert_pinned(responses[1], expected["response_negative"])
        goodness = [position_goodness(r).view(4, 12, 12) for r in responses]
        key = "goodness_positive (4,12,12): mean over channels of squared ReLU"
        assert_pinned(goodness[0], expected[key])
        assert_pinned(goodness[1], expected["goodness_negative"])
        pool = nn.MaxPool2d(4, 2, padding=1)
        assert_pinned(pool(Triangle()(responses[0])), expected["passed_on_positive"])
        loss = self.loss(responses[0], responses[1], 0)
        assert_pinned(loss, expected["loss"])
        of_weight, of_bias = gradients(loss, weight, bias)
        assert_pinned(of_weight, expected["gradient_weight"])
        assert_pinned(of_bias, expected["gradient_bias"])

    def test_two_steps_of_a_second_layer(self) -> None:
        """Over a frozen first one; positives and negatives go on as single maps there."""
        expected = self.values["layer_2_over_frozen_layer_1"]
        first = tensor(0, 8, 3, 5, 5, scale=75**-0.5), 2 * tensor(1, 8, scale=75**-0.5)
        weight = nn.Parameter(tensor(20, 16, 8, 3, 3, scale=72**-0.5))
        bias = nn.Parameter(tensor(21, 16, scale=72**-0.5))
        optimizer = torch.optim.AdamW([weight, bias], lr=0.002, weight_decay=1e-4)
        pool = nn.MaxPool2d(4, 2, padding=1)
        for step, loss_wanted in enumerate(expected["losses"]):
            pairs = self.pair(tensor(10 + step, 4, 3, 12, 12, scale=2), 2)
            maps = [pool(Triangle()(F.conv2d(x, *first))) for x in pairs]
            maps = [standardized(F.pad(x, (1, 1, 1, 1), mode="reflect")) for x in maps]
            positive, negative = (F.conv2d(x, weight, bias) for x in maps)
            loss = self.loss(positive, negative, 1)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            assert_pinned(loss, loss_wanted)
        assert_pinned(weight, expected["after_two_steps"]["weight"], 1e-7)
        assert_pinned(bias, expected["after_two_steps"]["bias"], 1e-7)

    def test_the_method_has_the_codes_settings(self) -> None:
        for block, layer in enumerate(self.values["settings"]["published_settings_by_layer"]):
            head = self.head(block)
            assert head.thresholds == (layer["threshold_positive"], layer["threshold_negative"])
            assert head.penalty == layer["penalty"]


class TestDgl:
    """Belilovsky et al. 2020."""

    values = reference("dgl")

    @pytest.mark.parametrize(("channels", "size"), [(128, 32), (128, 16), (256, 16), (512, 8)])
    def test_parameters(self, channels: int, size: int) -> None:
        head = AuxiliaryCrossEntropy().head((channels, size, size), 10)
        expected = self.values["parameters"][f"cnn: C={channels}, {size}x{size}"]["held"]
        assert sum(p.numel() for p in head.parameters()) == expected

    def test_logits_loss_and_gradient(self) -> None:
        expected = self.values["values"]["cnn"]
        head = head_of(get_method("dgl").objective, (8, 8, 8))
        weights = [p for p in head.parameters() if p.ndim > 1]
        for number, weight in enumerate(weights):
            fill(weight, number, (weight[0].numel()) ** -0.5)
        last = [p for p in head.parameters() if p.ndim == 1][-1]
        nn.init.zeros_(last)
        x = tensor(40, 6, 8, 8, 8, shift=1).requires_grad_()
        assert_pinned(head.scores(x)[0], expected["logits_image_0"])
        loss = head.loss(x, labels_of(0, 6))
        assert_pinned(loss, expected["loss"])
        assert_pinned(gradient(loss, x), expected["gradient_features"])


class TestAugLocal:
    """Ma et al. 2024, on a ResNet-32."""

    values = reference("auglocal_resnet32_aux")
    # A convolution and 15 residual blocks.
    shapes = ((16, 32, 32),) * 6 + ((32, 16, 16),) * 5 + ((64, 8, 8),) * 5
    residual = range(1, 16)

    def head(self, block: int) -> Head:
        """Filled as the file says."""
        objective = get_method("auglocal").objective
        assert isinstance(objective, AugmentedAuxiliary)
        head = objective.head_at(Site(block, self.shapes, 10, self.residual))
        names = self.values["layers"][str(block)]["parameter_order"]
        for number, (name, weight) in enumerate(zip(names, head.double().parameters(), strict=True)):
            scale = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1
            is_norm = "bn" in name or name.endswith("downsample.1.weight")
            fill(weight, 800 + 50 * block + number, scale, shift=float(is_norm))
        return head

    @pytest.mark.parametrize("block", [0, 8])
    def test_logits_loss_and_gradients(self, block: int) -> None:
        expected = self.values["layers"][str(block)]
        head = self.head(block)
        x = tensor(790 + block, 4, *self.shapes[block], shift=1).requires_grad_()
        assert_pinned(head.scores(x), expected["logits"])
        loss = head.loss(x, labels_of(0, 4))
        assert_pinned(loss, expected["loss"])
        of_x, *of_weights = gradients(loss, x, *head.parameters())
        assert_pinned(of_x, expected["input_gradient"])
        for found, wanted in zip(of_weights, expected["gradients"], strict=True):
            assert_pinned(found, wanted)


class PublishedLength(nn.Module):
    """``x / (sqrt(mean_i x_i²) + 1e-8)``."""

    def __init__(self, site: NormSite) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(1, keepdim=True).sqrt() + 1e-8)


class TestForwardForward:
    """Hinton 2022, in the code of loeweX without its extras."""

    values = reference("ff_loewex_plain")

    def network(self) -> LocalNetwork:
        """Three blocks of 40 units, label over the first pixels, threshold and goodness of sums."""
        method = replace(
            get_method("ff"),
            label_input="overlay",
            objective=Threshold(goodness="sum-square", threshold=40.0),
            normalization=PublishedLength,
        )
        style = method.block_style(10)
        blocks = [linear_block(size, 40, style, first=size == 784) for size in (784, 40, 40)]
        network = LocalNetwork(blocks, method, sample_shape=(1, 28, 28), num_classes=10).double()
        for k, size in enumerate((784, 40, 40)):
            fill(network.get_parameter(f"blocks.{k}.weights.weight"), 701 + k, 2 * size**-0.5)
            fill(network.get_parameter(f"blocks.{k}.weights.bias"), 711 + k, 0.1)
        return network

    def test_losses_and_gradients(self) -> None:
        network, seen = self.network(), []

        def keep(optimizer: torch.optim.Optimizer) -> None:
            seen.append([p.grad for group in optimizer.param_groups for p in group["params"]])

        learner = Learner(network, step_optimizer=keep)
        images = tensor(720, 6, 1, 28, 28, shift=1)
        losses = step_with(learner, images, labels_of(0, 6), wrong_labels_of(0, 6))
        for k, loss in enumerate(losses):
            assert loss is not None
            # The code keeps its losses in float32.
            assert_pinned(loss, self.values["loss_per_layer"][k], 1e-7)
            of_weight, of_bias = seen[k]
            assert_pinned(of_weight, self.values["weight_gradients"][k])
            assert_pinned(of_bias, self.values["bias_gradients"][k])

    def test_goodness_and_what_goes_on(self) -> None:
        network = self.network()
        assert network.label_input is not None
        images = tensor(720, 6, 1, 28, 28, shift=1)
        x = torch.cat([network.label_input(images, y) for y in (labels_of(0, 6), wrong_labels_of(0, 6))])
        for k, block in enumerate(network.blocks):
            x = block(x)
            assert_pinned(network.head(k).scores(x), self.values["goodness"][k])
            passed_on = self.values["passed_on"][k]
            assert_pinned(PublishedLength(NormSite(shape=(40,), first=False, num_classes=10))(x), passed_on)
            # Ours differs by where its epsilon stands, and by its size.
            assert_pinned(LengthNorm(eps=0)(x), passed_on, 1e-7)
            assert_pinned(LengthNorm()(x), passed_on, 1e-3)
