"""Support dialogues of invented shops: the facts stand in the prompt, the answer follows from them."""
# ruff: noqa: E501 - the lines are sentences

from __future__ import annotations

from collections.abc import Callable
from random import Random

from words import NAMES, a, cap, join, pick, plural, sample

Turn = tuple[str, str]
DAYS = [2, 3, 5, 7, 10, 12, 14, 15, 18, 20, 21, 25, 28, 35, 40, 50, 60, 75, 80, 90, 100, 120]
UNITS = ["days", "days", "days", "weeks", "working days", "business days", "hours", "months"]
PAYMENTS = ["credit card", "debit card", "bank transfer", "invoice", "cash on delivery", "gift card", "mobile payment"]
CHANNELS = [
    "by email",
    "by phone",
    "by chat",
    "in the app",
    "in your account",
    "on our website",
    "at any of our stores",
]
WEEK = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def span(rng: Random) -> str:
    unit = rng.choice(UNITS)
    return f"{rng.choice(DAYS) if unit != 'months' else rng.randint(2, 36)} {unit}"


def money(rng: Random) -> str:
    amount = rng.choice([f"{rng.randint(1, 200)}", f"{rng.randint(1, 99)}.{rng.choice(['50', '90', '95', '99'])}"])
    return rng.choice(["${}", "{} dollars", "{} euros", "£{}"]).format(amount)


def product(rng: Random) -> str:
    return pick(rng, "products")


def goods(rng: Random) -> str:
    return plural(pick(rng, "products"))


def place(rng: Random) -> str:
    return rng.choice(
        ["Settings", "Profile", "Orders", "My Account", "Help", "Payments", "Security", "Addresses", "Privacy"]
    )


# Each topic: the values it draws, statements of the fact, questions about it, answers. {name} is a drawn value.
Topic = tuple[dict[str, Callable[[Random], str]], list[str], list[str], list[str]]
TOPICS: list[Topic] = [
    ({"t": span},
     ["Returns are accepted within {t}.", "Customers may return items within {t} of purchase.", "The return window is {t}."],
     ["How long do I have to return an item?", "Can I send something back?", "What is your return policy?",
      "When is the last day to return my order?", "I don't like what I bought. What now?"],
     ["You can return items within {t}.", "You have {t} to send it back.", "Returns are accepted within {t}."]),
    ({"t": span},
     ["Refunds are paid within {t}.", "A refund takes {t}.", "We pay refunds {t} after the item arrives."],
     ["When do I get my money back?", "How long does a refund take?", "I returned my parcel. Where is my refund?"],
     ["Your refund is paid within {t}.", "A refund takes {t}.", "It takes {t} until the money is back."]),
    ({"t": span, "m": money},
     ["Standard shipping takes {t} and costs {m}.", "Delivery costs {m} and takes {t}.", "Parcels arrive in {t}; we charge {m}."],
     ["How long does delivery take?", "What does shipping cost?", "When will my parcel arrive?", "How much is delivery?"],
     ["Delivery takes {t} and costs {m}.", "Your parcel arrives in {t}. Shipping costs {m}.", "Shipping costs {m} and takes {t}."]),
    ({"t": span, "m": money},
     ["Express delivery takes {t} and costs {m}.", "For {m} we ship by express in {t}."],
     ["Do you offer express delivery?", "I need it fast. What can I do?", "How fast is express shipping?"],
     ["Yes, express delivery takes {t} and costs {m}.", "Choose express at checkout: it costs {m} and takes {t}."]),
    ({"m": money},
     ["Shipping is free for orders over {m}.", "Orders above {m} ship for free.", "There is no delivery fee from {m}."],
     ["When is shipping free?", "Do you have free delivery?", "How much do I have to spend for free shipping?"],
     ["Shipping is free for orders over {m}.", "Yes, if you spend more than {m}, delivery is free."]),
    ({"t": span, "p": goods},
     ["The warranty on {p} is {t}.", "We give a warranty of {t} on {p}.", "{p} come with a warranty of {t}."],
     ["How long is the warranty?", "Is there a guarantee on {p}?", "Are {p} covered if they break?", "My item broke. Is it covered?"],
     ["The warranty on {p} is {t}.", "Yes, {p} are covered for {t}.", "{p} come with a warranty of {t}."]),
    ({"x": place, "y": place},
     ["To change a password, open {x} and choose {y}.", "Passwords are reset under {x}, then {y}."],
     ["How do I reset my password?", "I forgot my password.", "I can't log in to my account.", "Where can I change my password?"],
     ["Open {x}, choose {y} and set a new password.", "You can change your password under {x} and {y}."]),
    ({"x": place},
     ["Addresses can be changed under {x}.", "To edit an address, open {x}."],
     ["How do I change my address?", "I moved. Where do I enter my new address?", "My address is wrong."],
     ["You can change your address under {x}.", "Please open {x} and enter your new address."]),
    ({"t": span, "x": place},
     ["Orders can be cancelled within {t} under {x}.", "To cancel, open {x} within {t} of ordering."],
     ["Can I cancel my order?", "How do I cancel?", "I ordered by mistake. What should I do?"],
     ["Yes, open {x} within {t} and cancel the order.", "You can cancel within {t} under {x}."]),
    ({"a": lambda rng: join(rng.sample(PAYMENTS, 2)), "b": lambda rng: rng.choice(["checks", "coins", "crypto", "vouchers"])},
     ["We accept {a}, but not {b}.", "Payment is possible by {a}. We do not take {b}."],
     ["How can I pay?", "Which payment methods do you accept?", "Can I pay with {b}?", "What are my payment options?"],
     ["You can pay by {a}. We do not accept {b}.", "We accept {a}, but not {b}."]),
    ({"a": lambda rng: f"{rng.randint(6, 11)} am", "b": lambda rng: f"{rng.randint(2, 10)} pm", "d": lambda rng: rng.choice(WEEK)},
     ["Support is open from {a} to {b}, closed on {d}.", "Our team works from {a} to {b}, but not on {d}."],
     ["When can I reach you?", "What are your opening hours?", "Are you open on {d}?", "When is support open?"],
     ["We are open from {a} to {b}, but closed on {d}.", "You can reach us from {a} to {b}, except on {d}."]),
    ({"c": lambda rng: rng.choice(CHANNELS), "t": span},
     ["Damaged items are reported {c} within {t}.", "If something arrives damaged, tell us {c} within {t}."],
     ["My parcel arrived damaged.", "The item is broken. What do I do?", "Something is missing from my order."],
     ["I am sorry about that. Please tell us {c} within {t}.", "Sorry for the trouble! Report it {c} within {t} and we will help."]),
    ({"n": lambda rng: str(rng.randint(2, 50)), "m": money},
     ["Members earn {n} points for every {m} they spend.", "Each {m} spent is worth {n} points."],
     ["How does the loyalty program work?", "How many points do I earn?", "What do I get as a member?"],
     ["You earn {n} points for every {m} you spend.", "Every {m} you spend gives you {n} points."]),
    ({"n": lambda rng: str(rng.choice([5, 8, 10, 12, 15, 20, 25, 30, 40])), "w": lambda rng: rng.choice(["students", "teachers",
      "nurses", "families", "new customers", "seniors", "members"])},
     ["There is a {n}% discount for {w}.", "{w} get {n}% off."],
     ["Do you have discounts?", "Is there a discount for {w}?", "Can I get a lower price?"],
     ["Yes, {w} get {n}% off.", "There is a {n}% discount for {w}."]),
    ({"t": span},
     ["Gift cards are valid for {t}.", "A gift card expires after {t}."],
     ["How long is my gift card valid?", "Does the gift card expire?", "When do I have to use my voucher?"],
     ["Your gift card is valid for {t}.", "Gift cards expire after {t}."]),
    ({"c": lambda rng: join(rng.sample(["Canada", "Norway", "Japan", "Brazil", "Spain", "India", "Kenya", "Poland", "Chile",
      "France", "Italy", "Egypt", "Peru", "Ghana", "Korea", "Mexico", "Greece", "Turkey", "Sweden"], 3))},
     ["We ship to {c}.", "International delivery is available to {c}."],
     ["Do you ship abroad?", "Which countries do you deliver to?", "Can you send it to another country?"],
     ["We ship to {c}.", "Yes, we deliver to {c}."]),
    ({"p": product, "n": lambda rng: str(rng.randint(2, 90)), "s": lambda rng: rng.choice(["in stock", "sold out", "on sale"])},
     ["The {p} is {s}. We have {n} in the warehouse.", "Stock: {p}, {n} pieces, {s}."],
     ["Is the {p} available?", "Do you have the {p}?", "I want to buy the {p}. Is it {s}?"],
     ["The {p} is {s}. There are {n} in the warehouse.", "We have {n} of them: the {p} is {s}."]),
    ({"p": product, "m": money},
     ["The {p} costs {m}.", "Price of the {p}: {m}."],
     ["How much is the {p}?", "What does the {p} cost?", "What is the price of the {p}?"],
     ["The {p} costs {m}.", "It costs {m}.", "The price of the {p} is {m}."]),
]  # fmt: skip
OPENERS = [
    "",
    "",
    "",
    "Hello! ",
    "Hi, ",
    "Good morning. ",
    "Excuse me, ",
    "Hey, ",
    "Quick question: ",
    "Please help me. ",
]
CLOSERS = ["", "", "", "", " Is there anything else I can help with?", " Please let me know if you need more help.",
           " Thank you for asking!", " I hope that helps."]  # fmt: skip
THANKS = ["Thank you!", "Thanks a lot.", "Great, thanks.", "That helps, thank you.", "Okay, perfect.", "Thanks, bye!"]
WELCOME = [
    "You are welcome!",
    "Happy to help!",
    "My pleasure.",
    "You are welcome. Have a nice day!",
    "Any time. Goodbye!",
]
UNKNOWN = ["I am sorry, I do not know that. Please ask our support team.", "I don't have that information.",
           "Sorry, I can't find anything about that. A colleague will help you."]  # fmt: skip


def order(rng: Random) -> list[Turn]:
    """Status of an order, read from its record."""
    number, name = f"{rng.choice('ABCDEFGHKLMNPQRSTVWXYZ')}{rng.randint(100, 99999)}", rng.choice(NAMES)
    item, state = (
        product(rng),
        rng.choice(["shipped", "packed", "delivered", "delayed", "cancelled", "on its way", "waiting for payment"]),
    )
    day = f"{rng.choice(WEEK)}, {rng.choice(['May', 'June', 'July', 'March', 'April', 'October'])} {rng.randint(1, 28)}"
    record = f"Order: {number}\nCustomer: {name}\nItem: {item}\nStatus: {state}\nDelivery: {day}"
    ask, answer = rng.choice(
        [(f"Where is my order {number}?", f"Hello {name}, your order {number} is {state}."),
         ("When will it arrive?", f"Your {item} is expected on {day}."),
         ("What did I order?", f"You ordered {a(item)}."),
         (f"What is the status of order {number}?", f"The status of order {number} is: {state}."),
         ("Can you check my order?", f"Of course, {name}. Your {item} is {state} and delivery is planned for {day}.")]
    )  # fmt: skip
    return [("system", f"Answer the customer with this record.\n{record}"), ("user", ask), ("assistant", answer)]


def dialogue(rng: Random) -> list[Turn]:
    """One to five facts in the prompt, then one to three questions about them, sometimes one that they don't answer."""
    shop = pick(rng, "companies")
    topics = rng.sample(TOPICS, rng.randint(1, 5))
    values = [{key: draw(rng) for key, draw in topic[0].items()} for topic in topics]
    facts = " ".join(cap(rng.choice(topic[1]).format(**drawn)) for topic, drawn in zip(topics, values, strict=True))
    head = rng.choice(
        [f"You are the support assistant of {shop}. ", f"You help customers of {shop}. ", f"{shop}: rules for support. ",
         "You answer questions of customers. ", f"{shop} sells {join([plural(p) for p in sample(rng, 'products', 2)])}. "]
    )  # fmt: skip
    turns: list[Turn] = [("system", head + facts)]
    for index in rng.sample(range(len(topics)), min(len(topics), rng.randint(1, 3))):
        turns += asked(rng, topics[index], values[index])
    if rng.random() < 0.15:
        other = rng.choice([topic for topic in TOPICS if topic not in topics])
        values.append({key: draw(rng) for key, draw in other[0].items()})
        turns += [("user", rng.choice(other[2]).format(**values[-1])), ("assistant", rng.choice(UNKNOWN))]
    if rng.random() < 0.2:
        turns += [("user", rng.choice(THANKS)), ("assistant", rng.choice(WELCOME))]
    if rng.random() < 0.3:  # the facts in the first question instead of a system turn
        turns[:2] = [("user", f"{turns[0][1]}\n\n{turns[1][1]}")]
    return turns


def asked(rng: Random, topic: Topic, drawn: dict[str, str]) -> list[Turn]:
    question = rng.choice(OPENERS) + rng.choice(topic[2]).format(**drawn)
    answer = cap(rng.choice(topic[3]).format(**drawn)) + rng.choice(CLOSERS)
    return [("user", question), ("assistant", answer)]
