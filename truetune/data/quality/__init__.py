"""What is wrong with rows that could be trained all the same: bad text, secrets, odd lengths, lopsided sets."""

from truetune.data.quality.clean import clean as clean
from truetune.data.quality.kinds import Finding as Finding
from truetune.data.quality.quality import Quality as Quality
