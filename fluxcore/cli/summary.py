"""The comparison of orders as a table for the terminal."""

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from fluxcore.report.compare import OrderResult


def summary_table(results: "list[OrderResult]") -> Table:
    """Order, tokens, final validation loss, tokens to reach the loss that all reach, tokens/s, training time."""
    from fluxcore.report.compare import common_loss
    from fluxcore.report.page import format_count, format_duration, format_nats

    goal = common_loss(results)
    table = Table("order")
    for label in ("seeds", "tokens", "final val loss", f"tokens to reach {goal:.3f}", "tokens/s", "training time"):
        table.add_column(label, justify="right")
    for result in results:
        low, high = result.final_loss_range
        spread = f" ({format_nats(low)} to {format_nats(high)})" if len(result.runs) > 1 else ""
        table.add_row(
            Text(result.order),
            str(len(result.runs)),
            format_count(result.tokens),
            format_nats(result.final_loss) + spread,
            format_count(result.tokens_to_reach(goal)),
            format_count(result.tokens_per_second),
            format_duration(result.seconds),
        )
    return table
