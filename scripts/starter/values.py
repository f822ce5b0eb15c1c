"""What answers of support are filled with: spans, sums, times, menus, addresses, all drawn."""

from __future__ import annotations

from pathlib import Path
from random import Random

from words import cap, pick, plural

SHOPS = [
    [[item.strip() for item in part.split(",")] for part in line.split("|")]
    for line in Path(__file__).with_name("goods.txt").read_text("utf-8").splitlines()
    if not line.startswith("#")
]
DAYS = [3, 5, 7, 8, 10, 15, 20, 21, 25, 28, 30, 31, 35, 40, 50, 60, 75, 80, 110, 120, 150, 180]
WORDS_SMALL = ["one", "three", "four", "five", "seven", "eight", "nine"]
SUMS = [5, 8, 10, 12, 18, 20, 25, 28, 30, 35, 40, 45, 50, 55, 60, 70, 75, 80, 90, 100, 120, 150, 180, 200, 250, 300,
        350, 450, 500, 600, 700, 750, 800, 900, 1000, 1200, 1500]  # fmt: skip
WEEK = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December"]  # fmt: skip
PAYMENTS = ["credit card", "debit card", "bank transfer", "invoice", "cash", "gift card", "mobile payment", "cheque",
            "Visa card",
            "PayFast", "EasyPay", "Coinly", "direct debit", "wallet app", "cash on delivery", "card"]  # fmt: skip
COUNTRIES = ["Canada", "Norway", "Japan", "Brazil", "Spain", "India", "Kenya", "Poland", "Chile", "France", "Italy",
             "Egypt", "Peru", "Ghana", "Korea", "Mexico", "Greece", "Turkey", "Sweden", "Germany", "Austria", "Denmark",
             "Switzerland", "Finland", "Hungary", "Croatia", "Iceland"]  # fmt: skip
CARRIERS = ["Swiftbox", "Postlink", "Boxrunner", "Parcelbird", "Quickpost", "Sendway", "Carryall", "Homerun"]
MENU = ["Settings", "Profile", "Orders", "My Account", "Help", "Payments", "Security", "Addresses", "Privacy",
        "Service", "Returns", "Discounts", "Bookings", "Account", "Delivery", "Support", "Offers", "Club",
        "My Data"]  # fmt: skip
GROUPS = ["student", "teacher", "nurse", "family", "pensioner", "new customer", "soldier", "apprentice", "child",
          "police officer", "trainee", "pupil", "senior", "club member"]  # fmt: skip


def span(rng: Random) -> str:
    """A number of days, weeks or months, in digits or in words, sometimes from … to …."""
    unit = rng.choice(["days", "days", "days", "weeks", "working days", "business days"])
    roll = rng.random()
    if roll < 0.6:
        return f"{rng.choice(DAYS)} {unit}"
    if roll < 0.8:
        return f"{rng.choice(WORDS_SMALL[1:])} {unit}"
    low = rng.randint(0, 4)
    return f"{WORDS_SMALL[low]} to {WORDS_SMALL[rng.randint(low + 1, 6)]} {unit}".replace(
        "four to six", "four to eight"
    )


def money(rng: Random) -> str:
    amount = rng.choice(
        [str(rng.choice(SUMS[:22])), f"{rng.randint(1, 99)}.{rng.choice(['50', '90', '95', '99', '30'])}"]
    )
    return rng.choice(["${}", "${}", "${}", "{} dollars", "{} euros", "£{}"]).format(amount)


def clock(rng: Random, low: int, high: int) -> str:
    return f"{rng.randint(low, high)}:{rng.choice(['00', '15', '45'])}"


def site(rng: Random) -> str:
    return f"{pick(rng, 'companies').lower()}.example"


def draw(rng: Random) -> dict[str, str]:
    """Every value of one conversation: what the shop sells, and what it promises."""
    large, small, wear, body, room = (rng.choice(part) for part in rng.choice(SHOPS))
    days, pays, lands = rng.sample(WEEK, 3), rng.sample(PAYMENTS, 3), rng.sample(COUNTRIES, 2)
    where, group = site(rng), rng.choice(GROUPS)
    hours = f"{rng.choice([1, 2, 4, 5, 6, 8, 10, 12, 20, 24, 36, 72])} hours"
    return {
        "large": large, "small": small, "wear": wear, "body": body, "room": room,
        "smalls": cap(plural(small)), "larges": cap(plural(large)), "wears": cap(plural(wear)),
        "groups": cap(plural(group)),
        "any": rng.choice(["it", "your order", "any item", f"a {small}", f"a {large}", f"a {large} or {small}"]),
        "thing": rng.choice(["item", "product", "article", small, large]),
        "parcel": rng.choice(["parcel", "box", "package"]), "shop": rng.choice(["store", "shop", "showroom"]),
        "group": plural(group), "one": group, "days": span(rng), "hours": rng.choice([hours, span(rng)]),
        "months": f"{rng.choice([2, 3, 4, 8, 9, 15, 18, 24, 30])} months",
        "years": rng.choice(["one year", "three years", "four years", "five years", "7 years", "8 years", "12 years"]),
        "years2": rng.choice(["one year", "three years", "four years"]),
        "minutes": f"{rng.choice([5, 10, 15, 25, 30, 40, 45, 50, 90, 120])} minutes",
        "money": money(rng), "sum": f"${rng.choice(SUMS)}", "sum2": f"${rng.choice(SUMS[20:])}",
        "percent": f"{rng.choice([1, 3, 4, 5, 6, 7, 8, 10, 15, 18, 20, 25, 30, 40])}%",
        "count": str(rng.choice([*range(3, 17), *range(18, 60)])),
        "big": str(rng.choice([20, 200, 300, 400, 600, 800, 1000])),
        "word": rng.choice(WORDS_SMALL), "hour": f"{rng.randint(7, 12)} am", "hour2": f"{rng.randint(3, 10)} pm",
        "clock": clock(rng, 7, 11), "clock2": clock(rng, 15, 20),
        "weekday": days[0], "weekday2": days[1], "weekday3": days[2], "month": rng.choice(MONTHS),
        "path": ", ".join(rng.sample(MENU, rng.randint(1, 2))), "carrier": rng.choice(CARRIERS),
        "city": pick(rng, "places"), "place": pick(rng, "rooms"), "color": pick(rng, "colors"),
        "colour": pick(rng, "colors"),
        "country": lands[0], "country2": lands[1], "pay": pays[0], "pay2": pays[1], "pay3": pays[2],
        "phone": f"555-{rng.randint(150, 999):04d}",
        "mail": f"{rng.choice(['help', 'hello', 'service', 'team', 'info'])}@{where}",
        "site": f"{where}/{rng.choice(['parcel', 'my', 'go', 'help', 'where', 'book'])}",
    }  # fmt: skip
