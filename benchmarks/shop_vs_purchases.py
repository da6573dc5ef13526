"""Recency, frequency and baskets of the simulated shop beside those of real purchases in the challenge's format.

    ubp generate --out SHOP
    python benchmarks/shop_vs_purchases.py SHOP DIR ...

Each argument is a directory with ``product_buy.parquet`` and ``product_properties.parquet``. A basket is what a client
buys within a day. Data sets differ in length: each is looked at over its last ``--days`` before the last two weeks, and
"comes back" is a purchase in those two weeks. Needs pandas only.
"""

import argparse
from pathlib import Path

import pandas as pd

TARGET_DAYS = 14
QUANTILES = (0.25, 0.5, 0.75, 0.95)


def describe(directory: Path, n_days: int) -> dict[str, str]:
    """Name of each statistic -> its value as text."""
    buys = pd.read_parquet(directory / "product_buy.parquet")
    buys["day"] = pd.to_datetime(buys["timestamp"]).dt.normalize()
    cutoff = buys["day"].max() - pd.Timedelta(days=TARGET_DAYS - 1)
    later = set(buys.loc[buys["day"] >= cutoff, "client_id"])
    buys = buys[(buys["day"] < cutoff) & (buys["day"] >= cutoff - pd.Timedelta(days=n_days))]
    buys = buys.merge(pd.read_parquet(directory / "product_properties.parquet")[["sku", "category", "price"]], on="sku")
    visits = buys[["client_id", "day"]].drop_duplicates().sort_values(["client_id", "day"])
    visits["gap"] = visits.groupby("client_id")["day"].diff().dt.days
    of_client = visits.groupby("client_id").agg(n=("day", "size"), last=("day", "max"), gap=("gap", "mean"))
    of_client["gap_cv"] = visits.groupby("client_id")["gap"].std() / of_client["gap"]
    recency = (cutoff - of_client["last"]).dt.days
    returns = of_client.index.isin(later)
    regular = of_client["n"] >= 5
    baskets = buys.groupby(["client_id", "day"])["sku"].agg(["size", "nunique"])
    pairs = buys.groupby(["client_id", "sku"]).size()
    shares = [buys.groupby(["client_id", column]).size() for column in ("category", "sku")]
    top = [(own.groupby("client_id").max() / own.groupby("client_id").sum())[of_client["n"] >= 5] for own in shares]
    popularity = buys["sku"].value_counts()
    n_popular = max(1, len(popularity) // 100)
    price = buys.groupby("client_id")["price"]
    found = {
        "clients with a purchase": f"{len(of_client):,}",
        "frequency: days with a purchase per client": quantiles(of_client["n"]),
        "gap between them, mean of a client (days)": quantiles(of_client["gap"].dropna()),
        "variation of a client's gaps (5 days or more)": quantiles(of_client.loc[regular, "gap_cv"].dropna()),
        "recency: days since the last": quantiles(recency),
        "comes back in two weeks": f"{returns.mean():.2f}",
    }
    bounds = [(0, 7), (7, 14), (14, 28), (28, n_days)]
    for low, high in bounds:
        within = (recency > low) & (recency <= high)
        found[f"  recency of {low + 1} to {high} days"] = f"{returns[within].mean():.2f} of {within.sum():,}"
    ratio = recency[regular] / of_client.loc[regular, "gap"]
    for low, high in [(0, 1), (1, 2), (2, float("inf"))]:
        within = (ratio > low) & (ratio <= high)
        found[f"  recency of {low} to {high} own gaps"] = f"{returns[regular][within].mean():.2f} of {within.sum():,}"
    return found | {
        "basket: products": quantiles(baskets["size"]),
        "basket: different products": quantiles(baskets["nunique"]),
        "purchases of what the client had bought before": f"{1 - len(pairs) / len(buys):.2f}",
        "share of the favourite category (5 days or more)": quantiles(top[0]),
        "share of the favourite product (5 days or more)": quantiles(top[1]),
        "share of the most bought 1 % of products": f"{popularity.head(n_popular).sum() / len(buys):.2f}",
        "deviation of price within a client, against all": f"{price.std().mean() / buys['price'].std():.2f}",
    }


def quantiles(values: pd.Series) -> str:
    """The quartiles and the 95th percentile."""
    return " / ".join(f"{value:.3g}" for value in values.quantile(QUANTILES))


def main() -> None:
    """Print one line per statistic, a column per directory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directories", nargs="+", type=Path)
    parser.add_argument("--days", type=int, default=90)
    arguments = parser.parse_args()
    described = {str(directory): describe(directory, arguments.days) for directory in arguments.directories}
    width = max(len(name) for name in next(iter(described.values())))
    print(" " * width, *(f"{Path(name).name:>26}" for name in described))
    for name in next(iter(described.values())):
        print(name.ljust(width), *(f"{found[name]:>26}" for found in described.values()))


if __name__ == "__main__":
    main()
