"""Support conversations of invented shops: what customers ask in many ways, and answers that stay the same."""

from __future__ import annotations

from random import Random

from topics import TOPICS, Topic
from values import WEEK, draw
from words import NAMES, a, join, pick, plural, sample

Turn = tuple[str, str]
COMMON = 1 + next(n for n, topic in enumerate(TOPICS) if topic.name == "damaged delivery")
CLOSERS = [" Is there anything else I can help with?", " Please let me know if you need more help.",
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
    item = pick(rng, "products")
    state = rng.choice(["shipped", "packed", "delivered", "delayed", "cancelled", "on its way", "waiting for payment"])
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


def some(rng: Random, count: int) -> list[Topic]:
    """Different topics; those that shops are asked most come three times as often."""
    found: dict[str, Topic] = {}
    while len(found) < count:
        topic = rng.choice(TOPICS if rng.random() < 0.5 else TOPICS[:COMMON])
        found[topic.name] = topic
    return list(found.values())


def direct(rng: Random) -> list[Turn]:
    """Questions without any facts at hand: the answers show what each is about, their values are made up."""
    values = draw(rng)
    turns: list[Turn] = []
    for topic in some(rng, rng.randint(1, 3)):
        turns += [("user", topic.ask(rng, values)), ("assistant", topic.answer(rng, values))]
    return turns


def again(rng: Random) -> list[Turn]:
    """Several questions, then the same ones in other words: the same answers."""
    values = draw(rng)
    known = {topic.name: topic.answer(rng, values) for topic in some(rng, rng.randint(2, 5))}
    asked = [topic for topic in TOPICS if topic.name in known]
    rng.shuffle(asked)
    later = rng.choices(asked, k=rng.randint(2, 5))
    turns: list[Turn] = []
    for topic in [*asked, *later]:
        turns += [("user", topic.ask(rng, values)), ("assistant", known[topic.name])]
    return turns


def dialogue(rng: Random) -> list[Turn]:
    """Two to six facts in the prompt, then questions about them, sometimes one that they don't answer."""
    values, shop = draw(rng), pick(rng, "companies")
    topics = some(rng, rng.randint(2, 6))
    facts = [topic.answer(rng, values) for topic in topics]
    head = rng.choice(
        [f"You are the support assistant of {shop}. ", f"You help customers of {shop}. ",
         f"{shop}: rules for support. ", "You answer questions of customers. ",
         f"{shop} sells {join([plural(p) for p in sample(rng, 'products', 2)])}. "]
    )  # fmt: skip
    turns: list[Turn] = [("system", head + " ".join(facts))]
    for index in rng.sample(range(len(topics)), rng.randint(1, min(4, len(topics)))):
        closer = rng.choice(CLOSERS) if rng.random() < 0.15 else ""
        turns += [("user", topics[index].ask(rng, values)), ("assistant", facts[index] + closer)]
    if rng.random() < 0.1:
        other = rng.choice([topic for topic in TOPICS if topic not in topics])
        turns += [("user", other.ask(rng, values)), ("assistant", rng.choice(UNKNOWN))]
    if rng.random() < 0.2:
        turns += [("user", rng.choice(THANKS)), ("assistant", rng.choice(WELCOME))]
    if rng.random() < 0.3:  # the facts in the first question instead of a system turn
        turns[:2] = [("user", f"{turns[0][1]}\n\n{turns[1][1]}")]
    return turns


def about(rng: Random) -> list[Turn]:
    """What is asked: the topic of a question, or whether two have the same one."""
    values = draw(rng)
    one, other = some(rng, 2)
    if rng.random() < 0.4:
        head = rng.choice(["What is this question about?", "What does the customer want to know?", "Name the topic:"])
        return [("user", f"{head} {one.ask(rng, values)}"), ("assistant", f"It is about: {one.name}.")]
    same = rng.random() < 0.5
    second = one if same else other
    head = rng.choice(["Do these two questions ask the same?", "Do both customers want the same?"])
    ask = f"{head}\n1. {one.ask(rng, values)}\n2. {second.ask(rng, values)}"
    answer = (
        f"Yes, both ask about: {one.name}."
        if same
        else f"No. The first asks about: {one.name}. The second: {other.name}."
    )
    return [("user", ask), ("assistant", answer)]


def rephrase(rng: Random) -> list[Turn]:
    """A question in other words."""
    values = draw(rng)
    (topic,) = some(rng, 1)
    head = rng.choice(["Rephrase this question:", "Ask the same in other words:", "Say it differently:", "Paraphrase:"])
    return [("user", f"{head} {topic.ask(rng, values)}"), ("assistant", topic.ask(rng, values))]
