"""Cycles of the kernels' inner loops on a Cortex-A72, as llvm-mca models it: `cycles.py OBJDUMP LLVM_MCA PROGRAM`.

A loop here is what lies between a branch backwards and its target, without another branch. Printed are those of at least
twenty instructions that multiply. The model knows neither caches nor branch prediction, and LLVM 14 has none of the
Cortex-A76 worth quoting.
"""

import collections
import re
import subprocess
import sys

PRODUCTS = {"smull", "smlal2", "smull2", "fmla"}
ITERATIONS = 100
Instruction = collections.namedtuple("Instruction", "operation operands function")


def read(objdump, program):
    """Instructions by address."""
    text = subprocess.run([objdump, "-d", "--no-show-raw-insn", program], check=True, capture_output=True, text=True)
    code, function = {}, ""
    for line in text.stdout.splitlines():
        if label := re.match(r"[0-9a-f]+ <(.*)>:", line):
            function = re.sub(r"17h[0-9a-f]{16}E", "", label[1])
        elif found := re.match(r"\s+([0-9a-f]+):\t(\S+)\t?([^/]*)", line):
            code[int(found[1], 16)] = Instruction(found[2], found[3].strip(), function)
    return code


def loops(code):
    """Bodies of innermost loops, without the branch."""
    addresses = sorted(code)
    index = {address: at for at, address in enumerate(addresses)}
    for address in addresses:
        operation, operands, _ = code[address]
        target = re.match(r"([0-9a-f]+) <", operands)
        if not operation.startswith("b.") or target is None or not int(target[1], 16) < address:
            continue
        start = index.get(int(target[1], 16), index[address])
        body = [code[a] for a in addresses[start : index[address]]]
        if not any(re.match(r"b\b|b\.|cb|tb|ret", i.operation) for i in body):
            yield body


def cycles(mca, body):
    assembly = "\n".join(f"{i.operation} {i.operands}" for i in body)
    command = [mca, "-mtriple=aarch64", "-mcpu=cortex-a72", f"-iterations={ITERATIONS}"]
    report = subprocess.run(command, check=True, input=assembly, capture_output=True, text=True).stdout
    return int(re.search(r"Total Cycles:\s+(\d+)", report)[1]) / ITERATIONS


def main(objdump, mca, program):
    for body in loops(read(objdump, program)):
        kinds = collections.Counter(i.operation for i in body)
        if len(body) < 20 or not PRODUCTS & kinds.keys():
            continue
        most = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4))
        function = body[0].function.removeprefix("_ZN11girasol_ops")[:52]
        print(f"{cycles(mca, body):8.1f} cycles {len(body):4} instructions  {function:<52} {most}")


if __name__ == "__main__":
    main(*sys.argv[1:])
