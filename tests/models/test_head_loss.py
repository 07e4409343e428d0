"""The head's loss in pieces, against PyTorch's cross-entropy on all logits."""

from __future__ import annotations

import pytest
import torch
from tiny_model import assistant, make_model, make_processor, picture, user
from torch import nn

from mutua.data.collate import supervised_positions
from mutua.models import head_loss as module
from mutua.models.head_loss import LossOutput, head_loss
from mutua.roles import TokenRoles


def parts(bias: bool, tokens: int = 37) -> tuple[torch.Tensor, nn.Linear, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden_TW = torch.randn(tokens, 16, generator=generator).requires_grad_()
    head = nn.Linear(16, 101, bias=bias)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(generator=generator)
    targets_T = torch.randint(0, 101, (tokens,), generator=generator)
    with torch.no_grad():
        targets_T[::3] = head(hidden_TW).argmax(-1)[::3]
    return hidden_TW, head, targets_T


def plain(hidden_TW: torch.Tensor, head: nn.Linear, targets_T: torch.Tensor, divisor: float) -> torch.Tensor:
    return nn.functional.cross_entropy(head(hidden_TW).float(), targets_T, reduction="sum") / divisor


@pytest.mark.parametrize("piece", [101, 101 * 5, 2**24])
@pytest.mark.parametrize("bias", [False, True])
def test_equals_cross_entropy(monkeypatch: pytest.MonkeyPatch, bias: bool, piece: int) -> None:
    monkeypatch.setattr(module, "_PIECE", piece)
    hidden_TW, head, targets_T = parts(bias)
    inputs = [hidden_TW, *head.parameters()]
    expected = plain(hidden_TW, head, targets_T, 50)
    gradients = torch.autograd.grad(3 * expected, inputs)
    loss, correct = head_loss(hidden_TW, head, targets_T, 50)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for found, gradient in zip(torch.autograd.grad(3 * loss, inputs), gradients, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-6)
    assert correct == (head(hidden_TW).argmax(-1) == targets_T).sum() >= 13


def test_a_frozen_head_gets_no_gradient_and_hidden_states_do() -> None:
    hidden_TW, head, targets_T = parts(bias=True)
    head.requires_grad_(False)
    head_loss(hidden_TW, head, targets_T, 1)[0].backward()
    assert hidden_TW.grad is not None
    assert head.weight.grad is None


def test_autocast_is_as_close_as_the_plain_way() -> None:
    hidden_TW, head, targets_T = parts(bias=False)
    (exact,) = torch.autograd.grad(plain(hidden_TW, head, targets_T, 37), head.weight)
    with torch.autocast("cpu", torch.bfloat16):
        rough, expected = head_loss(hidden_TW, head, targets_T, 37)[0], plain(hidden_TW, head, targets_T, 37)
    torch.testing.assert_close(rough, expected, rtol=1e-6, atol=0)
    errors = [(torch.autograd.grad(loss, head.weight)[0] - exact).norm() for loss in (rough, expected)]
    assert 0 < errors[0] < 1.1 * errors[1]


def test_no_token_at_all_is_a_loss_of_zero() -> None:
    hidden_TW, head, targets_T = parts(bias=False)
    loss, correct = head_loss(hidden_TW[:0], head, targets_T[:0], 5)
    loss.backward()
    assert (loss, correct) == (0, 0)
    assert not head.weight.grad.any()  # type: ignore[union-attr]


def test_a_second_backward_is_refused() -> None:
    hidden_TW, head, targets_T = parts(bias=False)
    loss, _ = head_loss(hidden_TW, head, targets_T, 1)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="run the forward pass again"):
        loss.backward()


def test_a_second_derivative_is_refused() -> None:
    """It would be finite, and leave out how the loss itself bends."""
    hidden_TW, head, targets_T = parts(bias=False)
    loss, _ = head_loss(hidden_TW.requires_grad_(), head, targets_T, 1)
    with pytest.raises(RuntimeError, match="no second derivative: leave supervised_positions out"):
        torch.autograd.grad(loss, hidden_TW, create_graph=True)


@pytest.mark.parametrize("tied", [False, True])
def test_the_forward_pass_gives_the_loss_of_all_positions(tied: bool) -> None:
    """Rows whose replies stand at different columns."""
    model = make_model(tie_word_embeddings=tied)
    chats = [
        [user(picture(1), "what colour?"), assistant("red")],
        [user("what colour is the circle, " * 3), assistant("yes, it is a square"), user("no?"), assistant("yes")],
    ]
    inputs = dict(
        make_processor(model).apply_chat_template(
            chats, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"padding_side": "right"}
        )
    )
    labels_BN = torch.where(TokenRoles.from_codes(inputs["token_type_ids"]).is_response_BN, inputs["input_ids"], -100)
    expected = model(**inputs, labels=labels_BN)
    expected.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    found = model(**inputs, labels=labels_BN, supervised_positions=supervised_positions(labels_BN))
    assert isinstance(found, LossOutput)
    found.loss.backward()
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-6, atol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=1e-4, atol=1e-6, msg=name)
    right_BN = expected.logits[:, :-1].argmax(-1) == labels_BN[:, 1:]
    assert found.correct == right_BN.sum()


def test_a_wrapped_head_is_called_as_it_is():
    """Adapters on the head (PEFT's LoRA, say) are part of the loss, and get a gradient."""

    class Adapted(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + x @ self.extra

    hidden_TW, plain, targets_T = parts(bias=False)
    head = Adapted(16, 101, bias=False)
    head.weight = plain.weight
    head.extra = nn.Parameter(torch.randn(16, 101, generator=torch.Generator().manual_seed(1)))
    loss, correct = head_loss(hidden_TW, head, targets_T, 37)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(head(hidden_TW), targets_T))
    assert int(correct) == int((head(hidden_TW).argmax(-1) == targets_T).sum())
    loss.backward()
    assert head.extra.grad.abs().sum() > 0
    hooked = nn.Linear(16, 101, bias=False)
    hooked.weight = plain.weight
    hooked.register_forward_hook(lambda module, inputs, out: out * 2)
    assert head_loss(hidden_TW, hooked, targets_T, 37)[0] != head_loss(hidden_TW, plain, targets_T, 37)[0]
